"""Scaled dot-product attention: every mask, grouped heads, padded and packed batches, one op."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import _library
from pyllm.ops.attention_reference import attention_reference


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    prefix_length: int | Tensor | None = None,
    sink_tokens: int = 0,
    sink_logits: Tensor | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    dropout_p: float = 0.0,
    kv_lengths: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale * q k^T + masks) v without ever holding the scores (Dao et al., "FlashAttention", 2022).

    Query i of a sequence stands at key position p = i + kv_len - q_len, with that row's `kv_lengths` in the place of
    kv_len where given: the last query stands on the last key ("bottom right"). So the newest queries of a KV cache
    filled to different lengths need `kv_lengths` and `is_causal`; a batch padded on the right needs `is_causal` alone,
    since no real query reaches the padding, and a query with p < 0 sees nothing. Query i may attend key j if

        j < kv_lengths  and  attn_mask[i, j]  and
        (j < prefix_length  or  (j <= p  and  (p - window < j  or  j < sink_tokens)))

    where without `window` any j <= p passes, and any j if neither `is_causal` nor `window` is set. A query that sees no
    key gives zeros and passes no gradient. Heads share keys and values in groups: query head h reads kv head
    h // (heads / kv_heads) (Ainslie et al., "GQA", 2023).

    Args:
        q: (batch, heads, q_len, head_dim), float64, float32, bfloat16 or float16; any strides.
        k, v: (batch, kv_heads, kv_len, head_dim), dtype of q, heads a multiple of kv_heads; any strides. v may have a
            head_dim of its own.
        attn_mask: broadcast to (batch, heads, q_len, kv_len): boolean, True = attend, or floating point, added to the
            scores (-inf = masked), with gradient.
        is_causal: queries see no later key.
        scale: 1 / sqrt(head_dim) if None.
        window: queries see the last `window` keys up to their own, which makes them causal.
        prefix_length: int, or integers (batch,): keys before it are visible to every query.
        sink_tokens: the first keys that stay visible outside the window (Xiao et al., "StreamingLLM", 2023).
        sink_logits: (heads,), floating point, with gradient: a logit per head that joins the softmax's denominator.
        softcap: scores become softcap * tanh(scores / softcap), before the additions below and the masks.
        alibi_slopes: (heads,), floating point, no gradient: slope * |p - j| is taken off the scores (Press et al.,
            "ALiBi", 2021).
        dropout_p: probability of dropping a weight, others grow by 1 / (1 - dropout_p); the draw depends on torch's
            generator and the places of batch row, head, query and key, not on threads.
        kv_lengths: integers (batch,): keys at and past it are invisible.
        cu_seqlens_q, cu_seqlens_k: integers (sequences + 1,), from 0 to the number of tokens: q is then (tokens, heads,
            head_dim), k and v (tokens, kv_heads, head_dim), and each sequence attends to itself. Not with `attn_mask`
            or `kv_lengths`.
        return_lse: also return the log of the softmax's denominator (sink_logits included), with gradient.

    Returns:
        out, (batch, heads, q_len, v's head_dim) in q's dtype, laid out in memory as (batch, q_len, heads, head_dim); or
        (out, lse) with lse (batch, heads, q_len), natural logarithm, float32 (float64 for float64), -inf for a query
        without keys. Packed: (tokens, heads, head_dim) and (heads, tokens). Sums are kept in float32.

    Raises:
        ValueError: shapes or values do not fit. TypeError: dtypes do not fit.
    """
    check_score_options("attention", scale, window, sink_tokens, softcap)
    tensors = (q, k, v, attn_mask, sink_logits, alibi_slopes, cu_seqlens_q, cu_seqlens_k, kv_lengths)
    plain = attn_mask is sink_logits is alibi_slopes is cu_seqlens_q is cu_seqlens_k is kv_lengths is None
    if plain and prefix_length is None and dropout_p == 0 and _library.runs_at_once(q):
        numbers = (is_causal, scale, window, sink_tokens, softcap, dropout_p)
        try:
            out, lse = _library.call(torch.ops.pyllm.attention.default, q, k, v, *_NO_MASKS, *numbers)
        except RuntimeError:
            _check(*tensors)  # the kernel's shim checks the same: here only to say it in full
            raise
        return (out, lse) if return_lse else out
    _check(*tensors)
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"attention: dropout_p must lie in [0, 1], got {dropout_p}")
    batch = q.shape[0] if cu_seqlens_q is None else cu_seqlens_q.shape[0] - 1
    prefix = _check_prefix(prefix_length, batch, q.device)
    seed = torch.randint(0, 2**62, (), dtype=torch.int64) if dropout_p > 0 else None
    masks = (attn_mask, sink_logits, alibi_slopes, prefix, kv_lengths, cu_seqlens_q, cu_seqlens_k, seed)
    numbers = (is_causal, scale, window, sink_tokens, softcap, dropout_p)
    fits_cuda = q.is_cuda and _fits_cuda(q, v, attn_mask, dropout_p)
    if not _library.runs_kernels(q, cuda=fits_cuda):
        out, lse = attention_reference(q, k, v, *masks, *numbers)
    elif cu_seqlens_q is None:
        out, lse = _library.call(torch.ops.pyllm.attention.default, q, k, v, *masks, *numbers)
    else:
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        out, lse = _library.call(torch.ops.pyllm.attention.default, q, k, v, *masks, *numbers)
        out, lse = out[0].transpose(0, 1), lse[0]
    return (out, lse) if return_lse else out


def _fits_cuda(q: Tensor, v: Tensor, attn_mask: Tensor | None, dropout_p: float) -> bool:
    """True if the CUDA kernels can do it: 16 bits, head sizes up to 256, masks that are intervals."""
    if attn_mask is not None or dropout_p > 0 or q.dtype not in (torch.bfloat16, torch.float16):
        return False
    return all(x.shape[-1] % 8 == 0 and 0 < x.shape[-1] <= 256 for x in (q, v))


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None,
    sink_logits: Tensor | None,
    alibi_slopes: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    kv_lengths: Tensor | None,
) -> None:
    packed = cu_seqlens_q is not None
    if packed != (cu_seqlens_k is not None):
        raise ValueError("attention: cu_seqlens_q and cu_seqlens_k must be given together")
    _check_tensors(q, k, v, packed)
    heads = q.shape[1]
    for name, per_head in (("sink_logits", sink_logits), ("alibi_slopes", alibi_slopes)):
        if per_head is None:
            continue
        if not per_head.is_floating_point():
            raise TypeError(f"attention: {name} must be floating point, got {per_head.dtype}")
        if per_head.shape != (heads,):
            raise ValueError(f"attention: {name} must have shape ({heads},), got {tuple(per_head.shape)}")
    if alibi_slopes is not None and alibi_slopes.requires_grad:
        raise ValueError("attention: alibi_slopes get no gradient, but it requires one; detach it")
    if cu_seqlens_q is not None and cu_seqlens_k is not None:
        _check_packed(cu_seqlens_q, cu_seqlens_k, attn_mask, kv_lengths)
        _check_borders("cu_seqlens_q", cu_seqlens_q, q.shape[0])
        _check_borders("cu_seqlens_k", cu_seqlens_k, k.shape[0])
        return
    if kv_lengths is not None:
        _check_integers("kv_lengths", kv_lengths, q.shape[0], k.shape[2])
    if attn_mask is not None:
        _check_mask(attn_mask, (q.shape[0], heads, q.shape[2], k.shape[2]))


def _check_tensors(q: Tensor, k: Tensor, v: Tensor, packed: bool) -> None:
    _library.check_dtype("attention", "q", q)
    shape_q, shape_k, shape_v = q.shape, k.shape, v.shape
    layout = "(tokens, heads, head_dim)" if packed else "(batch, heads, length, head_dim)"
    for name, x, shape in (("q", q, shape_q), ("k", k, shape_k), ("v", v, shape_v)):
        if len(shape) != (3 if packed else 4):
            raise ValueError(f"attention: {name} must be {layout}, got {tuple(shape)}")
        if x.dtype != q.dtype and not torch.is_autocast_enabled(q.device.type):
            raise TypeError(f"attention: {name} must have the dtype of q, {q.dtype}, got {x.dtype}")
    if shape_k[:-1] != shape_v[:-1]:
        raise ValueError(
            f"attention: v must have k's shape but for head_dim, got {tuple(shape_v)} for k {tuple(shape_k)}"
        )
    if shape_q[-1] != shape_k[-1]:
        raise ValueError(f"attention: k must have q's head_dim, {shape_q[-1]}, got {tuple(shape_k)}")
    if not packed and shape_q[0] != shape_k[0]:
        raise ValueError(f"attention: k must have q's batch, {shape_q[0]}, got {tuple(shape_k)}")
    heads, kv_heads = shape_q[1], shape_k[1]
    if heads != kv_heads and (kv_heads == 0 or heads % kv_heads != 0):
        raise ValueError(f"attention: q's heads must be a multiple of k's, got {heads} and {kv_heads}")


def _check_packed(
    cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, attn_mask: Tensor | None, kv_lengths: Tensor | None
) -> None:
    for name, x in (("attn_mask", attn_mask), ("kv_lengths", kv_lengths)):
        if x is not None:
            raise ValueError(f"attention: {name} must be None where cu_seqlens_q is given")
    if cu_seqlens_q.dim() != 1 or cu_seqlens_q.shape[0] < 1:
        raise ValueError(
            f"attention: cu_seqlens_q must have shape (sequences + 1,), got {tuple(cu_seqlens_q.shape)}"
        )
    _check_integers("cu_seqlens_q", cu_seqlens_q, cu_seqlens_q.shape[0])
    _check_integers("cu_seqlens_k", cu_seqlens_k, cu_seqlens_q.shape[0])


def _check_integers(name: str, x: Tensor, count: int, largest: int | None = None) -> None:
    """Checks shape, dtype, and that all lie in [0, largest]; of compiled calls the kernel checks the values.

    On a GPU nobody waits for the values: its kernels keep inside the tensors whatever they are.
    """
    if x.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"attention: {name} must be int32 or int64, got {x.dtype}")
    if x.dim() != 1 or x.shape[0] != count:
        raise ValueError(f"attention: {name} must have shape ({count},), got {tuple(x.shape)}")
    if x.is_meta or x.is_cuda or torch.compiler.is_compiling():
        return
    for value in x.tolist():
        if value < 0 or (largest is not None and value > largest):
            limit = "not be negative" if largest is None else f"lie in [0, {largest}]"
            raise ValueError(f"attention: {name} must {limit}, got {value}")


def _check_borders(name: str, cu_seqlens: Tensor, tokens: int) -> None:
    if cu_seqlens.is_meta or cu_seqlens.is_cuda or torch.compiler.is_compiling():
        return
    values = cu_seqlens.tolist()
    if values[0] != 0 or values[-1] != tokens or any(a > b for a, b in pairwise(values)):
        raise ValueError(
            f"attention: {name} must rise from 0 to the number of tokens, {tokens}, got {values}"
        )


def _check_mask(attn_mask: Tensor, shape: tuple[int, int, int, int]) -> None:
    if attn_mask.dtype != torch.bool and not attn_mask.is_floating_point():
        raise TypeError(f"attention: attn_mask must be bool or floating point, got {attn_mask.dtype}")
    fits = attn_mask.dim() <= 4
    for have, want in zip(reversed(attn_mask.shape), reversed(shape), strict=False):
        fits = fits and (have == 1 or have == want)
    if not fits:
        raise ValueError(
            f"attention: attn_mask must broadcast to {tuple(shape)}, got {tuple(attn_mask.shape)}"
        )


def _check_prefix(prefix_length: int | Tensor | None, batch: int, device: torch.device) -> Tensor | None:
    if prefix_length is None or isinstance(prefix_length, Tensor):
        if prefix_length is not None:
            _check_integers("prefix_length", prefix_length, batch)
        return prefix_length
    if prefix_length < 0:
        raise ValueError(f"attention: prefix_length must not be negative, got {prefix_length}")
    return torch.full((batch,), prefix_length, dtype=torch.int64, device=device)


def check_score_options(
    op: str, scale: float | None, window: int | None, sink_tokens: int, softcap: float | None
) -> None:
    """Raises ValueError if one of the numbers that make scores and masks cannot be used."""
    if scale is not None and scale != scale:
        raise ValueError(f"{op}: scale must not be NaN")
    if window is not None and window < 1:
        raise ValueError(f"{op}: window must be positive or None, got {window}")
    if sink_tokens < 0:
        raise ValueError(f"{op}: sink_tokens must not be negative, got {sink_tokens}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"{op}: softcap must be positive or None, got {softcap}")


def _heads_like(x: Tensor, batch: int, heads: int, tokens: int, dim: int) -> Tensor:
    return x.new_empty((batch, tokens, heads, dim)).transpose(1, 2)


@_library.register_fake("attention")
def _(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, _ = q.shape
    lse = q.new_empty((batch, heads, tokens), dtype=torch.promote_types(q.dtype, torch.float32))
    return _heads_like(q, batch, heads, tokens, v.shape[-1]), lse


@_library.register_fake("attention_backward")
def _(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None,
    sink_logits: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    grads = [_heads_like(x, x.shape[0], x.shape[1], x.shape[2], x.shape[3]) for x in (q, k, v)]
    wanted = options[-1] and attn_mask is not None and attn_mask.is_floating_point()
    shape = attn_mask.shape if wanted and attn_mask is not None else (0,)
    grad_mask = lse.new_empty(shape, dtype=torch.float64)
    return *grads, grad_mask, lse.new_empty((0,) if sink_logits is None else sink_logits.shape)


_NO_MASKS = (None,) * 8  # the tensors that the op takes after q, k and v

# Where the arguments that may ask for a gradient stand.
_MASK, _SINK, _TENSORS = 3, 4, 11


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:_TENSORS], *output)
    ctx.numbers = inputs[_TENSORS:]


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, out, lse = ctx.saved_tensors
    grads: list[Tensor | None] = [None] * (_TENSORS + len(ctx.numbers))
    if grad_out is None and grad_lse is None:
        return tuple(grads)
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    mask, sink = inputs[_MASK], inputs[_SINK]
    wants_mask = ctx.needs_input_grad[_MASK]
    *grads[:3], grad_mask, grad_sink = torch.ops.pyllm.attention_backward.default(
        grad_out, grad_lse, out, lse, *inputs, *ctx.numbers, wants_mask
    )
    if wants_mask:
        grads[_MASK] = grad_mask.to(mask.dtype)
    if ctx.needs_input_grad[_SINK]:
        grads[_SINK] = grad_sink.to(sink.dtype)
    return tuple(grads)


_library.register_autograd("attention", _backward, _setup)
_library.register_autocast("attention", lower=True, keep=(_MASK, _SINK, _SINK + 1))
