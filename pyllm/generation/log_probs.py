"""Log-probabilities of tokens, by one arithmetic for generated and for given text."""

from __future__ import annotations

from torch import Tensor

from pyllm import ops
from pyllm.models import Transformer


def token_log_probs(hidden: Tensor, lm_head_weight: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of `tokens` under softmax(hidden @ lm_head_weight.T).

    The trainers' loss itself, so that what is sampled has the log-probability, to the bit, that training gives it.

    Args:
        hidden: (rows, hidden_size). lm_head_weight: (vocab_size, hidden_size). tokens: (rows,) int64.

    Returns:
        (rows,) float32. A row's result depends on that row only.
    """
    return -ops.linear_cross_entropy(hidden, lm_head_weight, tokens, reduction="none")


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
    return token_log_probs(hidden, network.lm_head_weight, input_ids[first:])
