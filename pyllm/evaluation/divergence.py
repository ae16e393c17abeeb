"""How far a network's predictions are from those of a base: perplexity, Kullback-Leibler divergence, agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyllm.generation.logits import head_logits
from pyllm.models import Transformer

# Logits that are held at once, of each of the two networks: 32 MB of float32.
_MOST_LOGITS = 1 << 23


@dataclass(frozen=True)
class Divergence:
    """A network beside its base, over the predicted tokens of a text.

    Attributes:
        perplexity, perplexity_error: exp of the mean loss, and its standard error.
        mean_kl, kl_error: mean of KL(base || network) in nats, and its standard error.
        top1_agreement: share of positions where both think the same token most likely.
        num_predicted: positions.
    """

    perplexity: float
    perplexity_error: float
    mean_kl: float
    kl_error: float
    top1_agreement: float
    num_predicted: int


@dataclass(frozen=True)
class BaseRun:
    """What a base thinks of a text, kept as the states that its head reads: the logits of thousands of tokens
    would not fit into memory.

    Attributes:
        windows: (tokens,) int64 each; predicted are all tokens but a window's first.
        states: (tokens - 1, hidden_size) each.
        head: (vocab_size, hidden_size).
    """

    windows: Sequence[Tensor]
    states: Sequence[Tensor]
    head: Tensor


OnProgress = Callable[[str, int, int], object]


def run_base(network: Transformer, windows: Sequence[Sequence[int]], on_progress: OnProgress) -> BaseRun:
    """Reads every window with the base, whose weights must be plain.

    Raises:
        ValueError: no windows, or one with less than two tokens. IndexError: a token outside the vocabulary.
    """
    if not windows or min(map(len, windows)) < 2:
        raise ValueError("windows must be at least one of at least two tokens")
    ids = [torch.as_tensor(window, dtype=torch.int64) for window in windows]
    states = []
    for window in ids:
        states.append(_states(network, window))
        on_progress("base", len(states), len(ids))
    return BaseRun(ids, states, network.lm_head_weight)


@torch.inference_mode()
def divergence(base: BaseRun, network: Transformer, on_progress: OnProgress) -> Divergence:
    """`network` beside the base on the same windows; on_progress hears ("comparing", windows done, all)."""
    losses, divergences, agreements = [], [], []
    rows = max(1, _MOST_LOGITS // base.head.shape[0])
    for number, (window, wanted) in enumerate(zip(base.windows, base.states, strict=True), start=1):
        states = _states(network, window)
        parts = zip(states.split(rows), wanted.split(rows), window[1:].split(rows), strict=True)
        for ours, theirs, targets in parts:
            log_q = torch.log_softmax(head_logits(ours, network.lm_head_weight), -1)
            log_p = torch.log_softmax(head_logits(theirs, base.head), -1)
            losses.append(-log_q.gather(1, targets[:, None])[:, 0])
            agreements.append(log_p.argmax(-1) == log_q.argmax(-1))
            # In place: a vocabulary of 262,144 makes every copy expensive.
            divergences.append(log_q.sub_(log_p).neg_().mul_(log_p.exp_()).sum(-1))
        on_progress("comparing", number, len(base.windows))
    loss, kl = torch.cat(losses).double(), torch.cat(divergences).double()
    perplexity = math.exp(min(float(loss.mean()), 700.0))
    return Divergence(
        perplexity=perplexity,
        perplexity_error=perplexity * _standard_error(loss),
        mean_kl=float(kl.mean()),
        kl_error=_standard_error(kl),
        top1_agreement=float(torch.cat(agreements).double().mean()),
        num_predicted=len(loss),
    )


def _states(network: Transformer, window: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.hidden_states(window[None, :-1])[0]


def _standard_error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf
