"""Log-probabilities of tokens, by one arithmetic for generated and for given text."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm import ops
from pyllm.generation.logits import head_logits
from pyllm.models import Transformer

# Logits of a quantized head that are held at once: 32 MB of float32.
_MOST_LOGITS = 1 << 23


def token_log_probs(
    hidden: Tensor,
    lm_head_weight: Tensor | ops.QuantizedTensor,
    tokens: Tensor,
    softcap: float | None = None,
) -> Tensor:
    """Log-probability of `tokens` under softmax(hidden @ lm_head_weight.T), the logits capped by `softcap`.

    The trainers' loss itself, so that what is sampled has the log-probability, to the bit, that training gives it. A
    quantized head, which is not trained, makes its logits a few rows at a time.

    Args:
        hidden: (rows, hidden_size). lm_head_weight: (vocab_size, hidden_size). tokens: (rows,) int64.

    Returns:
        (rows,) float32. A row's result depends on that row only.
    """
    if isinstance(lm_head_weight, ops.QuantizedTensor):
        rows = max(1, _MOST_LOGITS // lm_head_weight.shape[0])
        parts = zip(hidden.split(rows), tokens.split(rows), strict=True)
        return torch.cat(
            [chosen_log_probs(head_logits(part, lm_head_weight, softcap), ids) for part, ids in parts]
        )
    return -ops.linear_cross_entropy(hidden, lm_head_weight, tokens, softcap=softcap, reduction="none")


def chosen_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of a quantized head: what `token_log_probs` makes of its logits (rows, vocab_size)."""
    return torch.log_softmax(logits, -1).gather(1, tokens.long()[:, None])[:, 0].float()


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
    return token_log_probs(hidden, network.lm_head_weight, input_ids[first:], network.logit_softcap)
