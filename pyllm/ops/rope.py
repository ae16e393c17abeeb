"""Rotary position embedding of queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.ops import _library


def rope(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    position_ids: Tensor | None = None,
    interleaved: bool = False,
) -> tuple[Tensor, Tensor]:
    """Rotates pairs of components of q and k by their position's angles (Su et al., "RoFormer", 2021).

    A pair (a, b) becomes (a cos - b sin, b cos + a sin). Pair i is (i, i + rotary_dim / 2), as in GPT-NeoX and
    Hugging Face's models, or (2 i, 2 i + 1) if interleaved, as in the paper and GPT-J. Components from rotary_dim on
    pass through.

    Args:
        q: (batch, heads, len, head_dim), float64, float32, bfloat16 or float16; any strides.
        k: (batch, kv_heads, len, head_dim), dtype of q; any strides.
        cos, sin: (positions, rotary_dim / 2), rotary_dim <= head_dim; one dtype, float32 or that of q. They get no
            gradient.
        position_ids: integers, (len,), (1, len) or (batch, len): each token's row of cos and sin; 0 .. len - 1
            if None.
        interleaved: how components pair up, see above.

    Returns:
        (q, k) rotated; shapes and dtypes as given, contiguous. Computed in float32 (float64 for float64).

    Raises:
        ValueError: shapes do not fit. TypeError: dtypes do not fit. IndexError: a position has no row in cos and sin.
    """
    if not _library.runs_kernels(q, cuda=True):
        _check(q, k, cos, sin, position_ids)
        _check_positions(position_ids, cos)
        return rope_reference(q, k, cos, sin, position_ids=position_ids, interleaved=interleaved)
    wide = torch.float64 if q.dtype is torch.float64 else torch.float32
    if cos.dtype is not wide or sin.dtype is not wide:
        _check_dtypes(q, k, cos, sin, position_ids)
        cos, sin = cos.to(wide), sin.to(wide)
    if position_ids is not None and position_ids.dtype is torch.int32:
        position_ids = position_ids.long()
    try:
        return _library.call(torch.ops.pyllm.rope.default, q, k, cos, sin, position_ids, interleaved, False)
    except RuntimeError:
        # The kernel's shim checks the same: here only to say it in full.
        _check(q, k, cos, sin, position_ids)
        _check_positions(position_ids, cos)
        raise


def rope_reference(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    position_ids: Tensor | None = None,
    interleaved: bool = False,
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels."""
    wide = torch.promote_types(q.dtype, torch.float32)
    rows = torch.arange(q.shape[2], device=q.device) if position_ids is None else position_ids
    # (batch or 1, 1, len, pairs): the same angles for every head.
    cos, sin = (t.detach()[rows].to(wide).reshape(-1, 1, q.shape[2], t.shape[1]) for t in (cos, sin))
    return _rotate(q, cos, sin, interleaved), _rotate(k, cos, sin, interleaved)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    pairs = cos.shape[-1]
    rotary, rest = x[..., : 2 * pairs].to(cos.dtype), x[..., 2 * pairs :]
    if interleaved:
        a, b = rotary[..., 0::2], rotary[..., 1::2]
        rotated = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = rotary[..., :pairs], rotary[..., pairs:]
        rotated = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((rotated.to(x.dtype), rest), dim=-1)


def _check(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None) -> None:
    _library.check_dtype("rope", "q", q)
    if q.dim() != 4:
        raise ValueError(f"rope: q must have shape (batch, heads, len, head_dim), got {tuple(q.shape)}")
    if k.dim() != 4 or (k.shape[0], k.shape[2], k.shape[3]) != (q.shape[0], q.shape[2], q.shape[3]):
        raise ValueError(
            f"rope: k must have shape (batch, kv_heads, len, head_dim) with q's batch, len and head_dim, got k "
            f"{tuple(k.shape)} for q {tuple(q.shape)}"
        )
    if cos.dim() != 2 or 2 * cos.shape[1] > q.shape[3]:
        raise ValueError(
            f"rope: cos must have shape (positions, rotary_dim / 2) with rotary_dim <= head_dim = {q.shape[3]}, "
            f"got {tuple(cos.shape)}"
        )
    if sin.shape != cos.shape:
        raise ValueError(f"rope: sin must have the shape of cos, {tuple(cos.shape)}, got {tuple(sin.shape)}")
    if position_ids is None:
        if q.shape[2] > cos.shape[0]:
            raise IndexError(
                f"rope: cos and sin have {cos.shape[0]} positions, q has {q.shape[2]}; pass position_ids or "
                "longer tables"
            )
    elif position_ids.shape not in ((q.shape[2],), (1, q.shape[2]), (q.shape[0], q.shape[2])):
        raise ValueError(
            f"rope: position_ids must have shape (len,), (1, len) or (batch, len) = {(q.shape[0], q.shape[2])}, got "
            f"{tuple(position_ids.shape)}"
        )
    _check_dtypes(q, k, cos, sin, position_ids)


def _check_dtypes(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None) -> None:
    if k.dtype != q.dtype and not torch.is_autocast_enabled(q.device.type):
        raise TypeError(f"rope: k must have the dtype of q, {q.dtype}, got {k.dtype}")
    if cos.dtype not in (torch.float32, q.dtype):
        raise TypeError(f"rope: cos must be float32 or have the dtype of q, {q.dtype}, got {cos.dtype}")
    if sin.dtype != cos.dtype:
        raise TypeError(f"rope: sin must have the dtype of cos, {cos.dtype}, got {sin.dtype}")
    if position_ids is not None and position_ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"rope: position_ids must be int64 or int32, got {position_ids.dtype}")


def _check_positions(position_ids: Tensor | None, cos: Tensor) -> None:
    if position_ids is None or position_ids.numel() == 0:
        return
    low, high = (int(p) for p in torch.aminmax(position_ids))
    if low < 0 or high >= cos.shape[0]:
        raise IndexError(
            f"rope: position_ids must lie in [0, {cos.shape[0]}), the rows of cos and sin, got {low} to {high}"
        )


@_library.register_fake("rope")
def _(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    position_ids: Tensor | None,
    interleaved: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    _check(q, k, cos, sin, position_ids)
    return q.new_empty(q.shape), k.new_empty(k.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, cos, sin, position_ids, ctx.interleaved, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin, position_ids)


def _backward(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
    """A rotation's gradient is the rotation by the opposite angles."""
    grads = torch.ops.pyllm.rope.default(grad_q, grad_k, *ctx.saved_tensors, ctx.interleaved, not ctx.inverse)
    return (*grads, None, None, None, None, None)


_library.register_autograd("rope", _backward, _setup)
_library.register_autocast("rope", lower=False, keep=(2, 3))
