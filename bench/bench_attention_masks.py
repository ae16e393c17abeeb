"""Masks over one long sequence: cost should follow the pairs that are seen. Full causal stands beside them.

PyTorch's scaled_dot_product_attention gets a dense mask, made beforehand; a sink logit becomes one more key of zeros,
whose score stands in the mask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import attention

from . import rivals
from .case import OURS, Call, Case, calls, direction, randn, short

HEADS, TOKENS, HEAD_DIM = 16, 4096, 64
SOFTCAP = 50.0


@dataclass(frozen=True)
class Mask:
    """A mask of `tokens` x `tokens`, as each contender is told of it.

    Attributes:
        visible: of places i and j, given as tensors.
        ours: arguments of our op. bias: ALiBi's slopes, (heads,). sinks: logits, (heads,).
    """

    name: str
    visible: Callable[[Any, Any], Any]
    ours: dict[str, Any]
    bias: Tensor | None = None
    sinks: Tensor | None = None

    def dense(self, tokens: int) -> Tensor:
        """(tokens, tokens), True where seen."""
        place = torch.arange(tokens)
        return self.visible(place[:, None], place[None, :])


def masks(tokens: int) -> list[Mask]:
    window, prefix, sink_tokens = tokens // 16, tokens // 4, 4
    borders = [0, tokens * 3 // 8, tokens * 7 // 16, tokens * 5 // 8, tokens]
    document = torch.bucketize(torch.arange(tokens), torch.tensor(borders[1:]), right=True)
    packed = torch.tensor(borders)
    slopes = 2.0 ** (-8.0 * torch.arange(1, HEADS + 1) / HEADS)
    logits = torch.linspace(-1.0, 1.0, HEADS)
    return [
        Mask("causal", lambda i, j: j <= i, {"is_causal": True}),
        Mask(f"window {window}", lambda i, j: (j <= i) & (i - window < j), {"window": window}),
        Mask(
            f"prefix {prefix}",
            lambda i, j: (j <= i) | (j < prefix),
            {"is_causal": True, "prefix_length": prefix},
        ),
        Mask(
            f"{len(borders) - 1} documents packed",
            lambda i, j: (j <= i) & (document[i] == document[j]),
            {"is_causal": True, "cu_seqlens_q": packed, "cu_seqlens_k": packed},
        ),
        Mask("softcap", lambda i, j: j <= i, {"is_causal": True, "softcap": SOFTCAP}),
        Mask("ALiBi", lambda i, j: j <= i, {"is_causal": True, "alibi_slopes": slopes}, bias=slopes),
        Mask(
            f"window {window}, {sink_tokens} sink tokens",
            lambda i, j: (j <= i) & ((i - window < j) | (j < sink_tokens)),
            {"window": window, "sink_tokens": sink_tokens},
        ),
        Mask("sink logits", lambda i, j: j <= i, {"is_causal": True, "sink_logits": logits}, sinks=logits),
    ]


def ours(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    packed = "cu_seqlens_q" in mask.ours
    inputs = [t[0].transpose(0, 1) for t in (q, k, v)] if packed else [q, k, v]
    out: Any = attention(*inputs, **mask.ours)
    return out.transpose(0, 1)[None] if packed else out


def dense_rival(mask: Mask, tokens: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    """scaled_dot_product_attention under the mask as a tensor; the plain formula for softcap."""
    if "softcap" in mask.ours:
        return functools.partial(rivals.softcapped_attention, softcap=SOFTCAP)
    seen = mask.dense(tokens)
    if mask.bias is not None:
        place = torch.arange(tokens)
        distance = (place[:, None] - place).abs()
        scores = (-mask.bias[:, None, None] * distance).masked_fill(~seen, float("-inf"))
        return functools.partial(rivals.sdpa, mask=scores[None].to(dtype))
    if mask.sinks is not None:
        scores = torch.zeros(1, HEADS, tokens, tokens + 1).masked_fill_(
            ~torch.nn.functional.pad(seen, (1, 0), value=True), float("-inf")
        )
        scores[..., 0] = mask.sinks[None, :, None]
        return functools.partial(rivals.sdpa_with_sink, mask=scores.to(dtype))
    return functools.partial(rivals.sdpa, mask=seen)


def flex_rival(mask: Mask, tokens: int) -> Callable[..., Tensor]:
    slopes = torch.zeros(()) if mask.bias is None else mask.bias

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return mask.visible(i, j)

    def capped(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return SOFTCAP * torch.tanh(score / SOFTCAP)

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slopes[h] * (i - j).abs()

    score = capped if "softcap" in mask.ours else None if mask.bias is None else biased
    return rivals.flex_attention(visible, score, tokens)


def build(dtype: torch.dtype, mask: Mask, tokens: int, grad: bool) -> dict[str, Call]:
    inputs = [randn(1, HEADS, tokens, HEAD_DIM, dtype=dtype, grad=grad, seed=seed) for seed in range(3)]
    contenders: dict[str, Callable[..., Any]] = {
        OURS: functools.partial(ours, mask),
        rivals.TORCH: dense_rival(mask, tokens, dtype),
    }
    if mask.sinks is None:  # flex_attention has no sinks in its denominator
        contenders[rivals.FLEX] = flex_rival(mask, tokens)
    return calls(contenders, inputs)


def case(dtype: torch.dtype, mask: Mask, tokens: int, grad: bool, quick: bool) -> Case:
    pairs = HEADS * int(mask.dense(tokens).sum())
    moved = (3 if grad else 1) * 4 * HEADS * tokens * HEAD_DIM * dtype.itemsize
    name = f"{mask.name}, {tokens} x {HEADS} x {HEAD_DIM} {short(dtype)}"
    make = functools.partial(build, dtype, mask, tokens, grad)
    flops = pairs * HEAD_DIM * (14 if grad else 4)
    return Case(name, dtype, direction(grad), moved, flops, make, quick=quick)


def cases(tokens: int = TOKENS) -> list[Case]:
    found = []
    for mask in masks(tokens):
        for dtype, grad in ((torch.bfloat16, False), (torch.bfloat16, True), (torch.float32, False)):
            quick = mask.name in ("causal", "window 256") and dtype is torch.bfloat16 and not grad
            found.append(case(dtype, mask, tokens, grad, quick))
    return found


def small_cases() -> list[Case]:
    """The same at a size that a test can afford."""
    return cases(tokens=64)


def test_attention_masks(benchmark: Any, call: Any) -> None:
    benchmark(call)
