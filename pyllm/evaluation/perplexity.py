"""Perplexity of a text under a model, by a sliding window."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pyllm.generation import sequence_log_probs
from pyllm.models import Transformer

DEFAULT_CONTEXT = 1024


@dataclass(frozen=True)
class Perplexity:
    """exp(mean_nll), with what it was measured on.

    Attributes:
        perplexity: of the predicted tokens.
        mean_nll: mean negative log-likelihood in nats.
        num_tokens: tokens of the text; num_predicted: those that were predicted from others.
        context, stride: in tokens.
    """

    perplexity: float
    mean_nll: float
    num_tokens: int
    num_predicted: int
    context: int
    stride: int


class _Window(NamedTuple):
    """Tokens begin to end - 1 are seen; those from `first` on are predicted and counted."""

    begin: int
    end: int
    first: int


def perplexity(
    network: Transformer,
    token_ids: Sequence[int],
    *,
    context: int | None = None,
    stride: int | None = None,
    on_progress: Callable[[str, int, int], object] | None = None,
) -> Perplexity:
    """Perplexity of one long text.

    A window of `context` tokens moves on by `stride`; each token is predicted once, in the first window that holds it,
    so it sees at least context - stride tokens before it. A token with nothing before it in its window (the text's
    first, and with stride = context each window's first) is not predicted. This is the sliding-window recipe of
    transformers' documentation, with every token weighted alike.

    Args:
        token_ids: the text, at least two tokens.
        context: default 1024, or the model's own context where that is shorter.
        stride: default half the context.
        on_progress: hears ("predicting", tokens done, tokens in all) after every window.

    Raises:
        ValueError: too few tokens, a token outside the vocabulary, context or stride out of range.
    """
    limit = network.config.max_position_embeddings
    context = min(DEFAULT_CONTEXT, limit) if context is None else context
    stride = max(1, context // 2) if stride is None else stride
    if not 2 <= context <= limit:
        raise ValueError(f"context must lie in [2, {limit}], the model's context, got {context}")
    if not 1 <= stride <= context:
        raise ValueError(f"stride must lie in [1, {context}], the context, got {stride}")
    if len(token_ids) < 2:
        raise ValueError(f"token_ids must hold at least two tokens, got {len(token_ids)}")
    ids = torch.as_tensor(token_ids, dtype=torch.int64, device=network.device)
    total, count = 0.0, 0
    for window in _windows(len(ids), context, stride):
        if window.end - window.first < 1:
            continue
        with torch.inference_mode():
            log_probs = sequence_log_probs(
                network, ids[window.begin : window.end], first=window.first - window.begin
            )
        total -= float(log_probs.double().sum())
        count += len(log_probs)
        if on_progress is not None:
            on_progress("predicting", window.end, len(ids))
    mean = total / count
    # A hopeless model on purpose: beyond exp's range the honest number is infinity.
    value = math.exp(mean) if mean < 709 else math.inf
    return Perplexity(value, mean, len(ids), count, context, stride)


def _windows(tokens: int, context: int, stride: int) -> Iterator[_Window]:
    previous_end = 0
    for begin in range(0, tokens, stride):
        end = min(begin + context, tokens)
        yield _Window(begin, end, max(previous_end, begin + 1))
        previous_end = end
        if end == tokens:
            return
