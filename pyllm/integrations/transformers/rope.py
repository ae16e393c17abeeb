"""`apply_rotary_pos_emb`, which models import by name from their own file, by `pyllm.ops.rope`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyllm import ops
from pyllm.integrations.transformers.likeness import agrees, draw, result
from pyllm.ops.rope import rope_reference

NAME = "apply_rotary_pos_emb"
Rotate = Callable[..., tuple[Tensor, Tensor]]


def rope_function(original: Any) -> Rotate | None:
    """A function to stand in for `original`, or None if it does not rotate halves as ours does."""
    if not _takes_tables(original) or not _rotates_halves(original):
        return None

    @functools.wraps(original)
    def apply_rotary_pos_emb(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        if not q.is_cpu or cos.dim() != 3 or q.dim() != 4 or unsqueeze_dim not in (1, 2):
            return original(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        if unsqueeze_dim == 2:
            q, k = rotate(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
            return q.transpose(1, 2), k.transpose(1, 2)
        return rotate(q, k, cos, sin)

    return apply_rotary_pos_emb


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q, k (batch, heads, len, head_dim) rotated by transformers' tables cos, sin (batch or 1, len, rotary_dim).

    Their tables hold a row per token and every angle twice; ours hold each angle once, a row per position.
    """
    rows, length, width = cos.shape
    wide = torch.float64 if q.dtype is torch.float64 else torch.float32
    cos, sin = (t[..., : width // 2].reshape(rows * length, width // 2).to(wide) for t in (cos, sin))
    positions = None
    if rows > 1:
        positions = torch.arange(rows * length, device=q.device).view(rows, length)
    return ops.rope(q, k, cos, sin, position_ids=positions)


def _takes_tables(function: Any) -> bool:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False
    return names == ["q", "k", "cos", "sin", "unsqueeze_dim"]


def _rotates_halves(function: Any) -> bool:
    q, k, angles = draw(2, 4, 3, 8, seed=1), draw(2, 2, 3, 8, seed=2), draw(3, 4, seed=3)
    cos, sin = (torch.cat((t, t), dim=-1)[None] for t in (angles.cos(), angles.sin()))
    theirs = result(function, q, k, cos, sin)
    ours = rope_reference(q, k, angles.cos(), angles.sin())
    return isinstance(theirs, tuple) and len(theirs) == 2 and all(map(agrees, ours, theirs))
