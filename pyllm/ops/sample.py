"""Drawing the next token from logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyllm.ops import _library

_MASK32 = 0xFFFFFFFF


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | Tensor | None = None,
    position: int | Tensor | None = None,
) -> Tensor:
    """One token id per row, drawn from softmax(logits / temperature) after top_k, top_p and min_p, in this order.

    top_k keeps the k largest logits; top_p then keeps the fewest tokens, most likely first, whose renormalized
    probabilities reach top_p (Holtzman et al., 2020); min_p then keeps those at least min_p times as likely as the
    likeliest (Nguyen et al., 2024). The likeliest token always stays. Equal logits rank by token id, lowest first; the
    draw inverts the cumulative distribution in order of token id.

    The uniform number of a row is the Philox4x32-10 block of (seed, position) alone, so neighbouring rows, batch shape
    and threads do not change a draw.

    Args:
        logits: (..., vocab), float64, float32, bfloat16 or float16. -inf never gets drawn; where a row holds +inf,
            only those tokens can be.
        temperature: >= 0; 0 is greedy: the first largest logit, whatever the other arguments.
        top_k: 0 or at least vocab: no limit.
        top_p: in [0, 1]; 1: no limit.
        min_p: in [0, 1]; 0: no limit.
        seed: in [0, 2^63), or int64 of logits.shape[:-1]. None: a fresh seed per row from torch's generator.
        position: in [0, 2^63), or int64 of logits.shape[:-1]: the place in the sequence, so that every step draws
            afresh. None: the row's number in the batch.

    Returns:
        int64 token ids, (...).

    Raises:
        ValueError: an argument is out of range, a row holds NaN or nothing but -inf, or shapes do not fit.
        TypeError: a dtype does not fit.
    """
    _check(logits, temperature, top_k, top_p, min_p)
    rows = logits.shape[:-1]
    if seed is None:
        seed = torch.randint(0, 2**63 - 1, rows, dtype=torch.int64, device=logits.device)
    if position is None:
        position = torch.arange(rows.numel(), device=logits.device).view(rows)
    seeds, positions = _per_row("seed", seed, logits), _per_row("position", position, logits)
    if not _library.has_kernels(logits):
        return sample_reference(logits, temperature, top_k, top_p, min_p, seeds, positions)
    return torch.ops.pyllm.sample.default(logits.detach(), temperature, top_k, top_p, min_p, seeds, positions)


def sample_reference(
    logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float, seed: Tensor, position: Tensor
) -> Tensor:
    """The same in plain PyTorch, seed and position int64 of logits.shape[:-1]: the definition and the fallback."""
    wide = logits.to(torch.float64)
    if wide.numel() and bool((wide.isnan().any(-1) | wide.isneginf().all(-1)).any()):
        raise ValueError("sample: logits must hold no NaN and a value above -inf in every row")
    if temperature == 0.0:
        return _first_largest(wide)
    uniform = torch.tensor(
        [
            _uniform(s, p)
            for s, p in zip(seed.reshape(-1).tolist(), position.reshape(-1).tolist(), strict=True)
        ],
        dtype=torch.float64,
        device=logits.device,
    ).view(logits.shape[:-1])
    cumulative = filtered_weights(wide, temperature, top_k, top_p, min_p).cumsum(-1)
    # Rounding can leave u * total at the total itself; the last token that has any weight catches it.
    last = (cumulative < cumulative[..., -1:]).sum(-1)
    return torch.minimum((cumulative <= (uniform * cumulative[..., -1]).unsqueeze(-1)).sum(-1), last)


def filtered_weights(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """exp((l - max) / temperature) of the tokens that the filters of `sample` keep, 0 for the others; float64."""
    wide = logits.to(torch.float64)
    largest = wide.amax(-1, keepdim=True)
    weights = torch.where(wide == largest, 1.0, torch.exp((wide - largest) / temperature))
    order = wide.sort(dim=-1, descending=True, stable=True).indices
    ranked = weights.gather(-1, order)
    rank = torch.arange(wide.shape[-1], device=wide.device)
    if top_k > 0:
        ranked = torch.where(rank < top_k, ranked, 0.0)
    if top_p < 1.0:
        before = ranked.cumsum(-1) - ranked
        ranked = torch.where((before < top_p * ranked.sum(-1, keepdim=True)) | (rank == 0), ranked, 0.0)
    ranked = torch.where(ranked >= min_p, ranked, 0.0)
    return torch.zeros_like(weights).scatter(-1, order, ranked)


def _first_largest(wide: Tensor) -> Tensor:
    return (wide == wide.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1)


def _uniform(seed: int, position: int) -> float:
    """The first 53 bits of the Philox4x32-10 block (Salmon et al., 2011), in [0, 1)."""
    c = [0, 0, position & _MASK32, position >> 32]
    k0, k1 = seed & _MASK32, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & _MASK32, (p0 >> 32) ^ c[3] ^ k1, p0 & _MASK32]
        k0, k1 = (k0 + 0x9E3779B9) & _MASK32, (k1 + 0xBB67AE85) & _MASK32
    return ((c[1] << 32 | c[0]) >> 11) * 2.0**-53


def _per_row(name: str, value: int | Tensor, logits: Tensor) -> Tensor:
    rows = logits.shape[:-1]
    if isinstance(value, Tensor):
        if value.dtype != torch.int64:
            raise TypeError(f"sample: {name} must be an int or an int64 tensor, got {value.dtype}")
        if value.shape != rows:
            raise ValueError(
                f"sample: {name} must have shape {tuple(rows)}, logits' without the last dimension, got "
                f"{tuple(value.shape)}"
            )
        return value
    if not 0 <= value < 2**63:
        raise ValueError(f"sample: {name} must be in [0, 2^63), got {value}")
    return torch.full(rows, value, dtype=torch.int64, device=logits.device)


def _check(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    _library.check_dtype("sample", "logits", logits)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"sample: logits must have shape (..., vocab) with vocab > 0, got {tuple(logits.shape)}"
        )
    if not 0.0 <= temperature < math.inf:
        raise ValueError(f"sample: temperature must be finite and >= 0, got {temperature}")
    if top_k < 0:
        raise ValueError(f"sample: top_k must be >= 0, got {top_k}")
    if not 0.0 <= top_p <= 1.0:
        raise ValueError(f"sample: top_p must be in [0, 1], got {top_p}")
    if not 0.0 <= min_p <= 1.0:
        raise ValueError(f"sample: min_p must be in [0, 1], got {min_p}")


@_library.register_fake("sample")
def _(
    logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float, seed: Tensor, position: Tensor
) -> Tensor:
    return logits.new_empty(logits.shape[:-1], dtype=torch.int64)
