"""Log-probabilities of tokens, by one arithmetic for generated and for given text."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm import ops
from pyllm.models import Transformer

# Rows of logits held at a time: 128 x 50,000 tokens are 26 MB.
_ROWS = 128


def token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits) at `tokens`.

    Args:
        logits: (rows, vocab_size) float32. tokens: (rows,) int64.

    Returns:
        (rows,) float32. A row's result depends on that row only.
    """
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, None]).squeeze(-1)


def sequence_log_probs(network: Transformer, input_ids: Tensor, *, first: int = 1) -> Tensor:
    """Log-probability of each token from index `first` on, given all before it; the logits are never held whole.

    Args:
        input_ids: (tokens,) int64, at least two.
        first: in [1, tokens).

    Returns:
        (tokens - first,) float32: entry i belongs to token first + i.

    Raises:
        TypeError: ids that are not integers. IndexError: a token outside the vocabulary.
    """
    vocab_size = network.config.vocab_size
    if input_ids.is_floating_point():
        raise TypeError(f"input_ids must be integers, got {input_ids.dtype}")
    if bool(((input_ids < 0) | (input_ids >= vocab_size)).any()):
        raise IndexError(f"input_ids must lie in [0, {vocab_size}), got {input_ids.tolist()}")
    hidden = network.hidden_states(input_ids[None, :-1])[0, first - 1 :]
    parts = []
    for rows, targets in zip(hidden.split(_ROWS), input_ids[first:].split(_ROWS), strict=True):
        parts.append(token_log_probs(ops.linear(rows, network.lm_head_weight).float(), targets))
    return torch.cat(parts)
