"""What PyTorch's users write instead of our ops: every rival in one place.

Each takes our op's tensors. `compiled` wraps one in torch.compile; compilation happens in a first call, which is not
timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TORCH, COMPILED, FLEX = "torch", "torch.compile", "flex_attention"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile with its default settings, as a function of its own: nothing is shared with earlier cases."""
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, 1e-6)


def add_rms_norm(x: Tensor, weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    h = x + residual
    return rms_norm(h, weight), h


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, 1e-5)


def add_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    h = x + residual
    return layer_norm(h, weight, bias), h


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return _rotate(q, cos, sin), _rotate(k, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    cos, sin = (torch.cat((t, t), -1).to(x.dtype) for t in (cos, sin))
    return x * cos + torch.cat((-b, a), -1) * sin


def linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight).float(), target)


def sample(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    kept, ids = torch.topk(logits / temperature, top_k)
    probabilities = kept.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    return ids.gather(-1, torch.multinomial(probabilities, 1)).squeeze(-1)


def fused_adamw(parameters: list[torch.nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, fused=True, **options)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """scaled_dot_product_attention; heads are grouped where there are more of q's."""
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, enable_gqa=grouped)


def sdpa_with_sink(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """A key of zeros in front, whose score is what `mask` adds to it: a logit that joins the denominator only."""
    return sdpa(q, F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0)), mask)


def softcapped_attention(q: Tensor, k: Tensor, v: Tensor, softcap: float) -> Tensor:
    """Causal attention with capped scores, which scaled_dot_product_attention lacks: the plain formula."""
    scores = softcap * torch.tanh(q @ k.transpose(-1, -2) / (softcap * math.sqrt(q.shape[-1])))
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return scores.masked_fill(~seen, -math.inf).softmax(-1) @ v


def flex_attention(
    visible: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    score: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] | None,
    tokens: int,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Compiled flex_attention under `visible(b, h, i, j)` and, where given, `score(s, b, h, i, j)`.

    PyTorch's kernel for CPUs has no backward: the first call says so.
    """
    from torch.nn.attention import flex_attention as flex

    blocks = flex.create_block_mask(visible, None, None, tokens, tokens, device="cpu")
    attend = compiled(flex.flex_attention)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, score_mod=score, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1])

    return call
