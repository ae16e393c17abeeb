"""How pyllm's row-wise and elementwise ops go over sharded tensors (`torch.distributed.tensor`)."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from pyllm.ops import _library

# What a rule returns: (placements of outputs, placements of inputs), None where the input is no tensor.
_Rules = list[tuple[list[Any], list[Any]]]


@functools.cache
def register_shardings() -> None:
    """Teaches DTensor to run our ops on each rank's own part, without gathering; once a process.

    rms_norm (with a residual too): by the first dimension, the batch; the weight's gradient is then a partial sum.
    glu, swiglu and activate: by any dimension, so behind a product whose weight is cut by outputs. rope: by batch or
    heads. Ops without a rule raise what DTensor raises: use `local_map` or `to_local` around them.
    """
    if not _library.LOADED:
        return  # the references are torch's own operators
    ops = torch.ops.pyllm
    register_sharding(ops.rms_norm.default)(_rms_norm)
    register_sharding(ops.add_rms_norm.default)(_add_rms_norm)
    register_sharding(ops.rms_norm_backward.default)(_rms_norm_backward)
    register_sharding(ops.glu.default)(_glu)
    register_sharding(ops.glu_backward.default)(_glu_backward)
    register_sharding(ops.activate.default)(_activate)
    register_sharding(ops.activate_backward.default)(_activate_backward)
    register_sharding(ops.rope.default)(_rope)


def _by_batch_or_whole() -> list[Any]:
    # One number per row comes out as (rows,): cut by the batch it stays in one piece, by another dimension not.
    return [Replicate(), Shard(0)]


def _rms_norm(x: Any, weight: Any, eps: float, weight_offset: float) -> _Rules:
    return [([p, p], [p, Replicate(), None, None]) for p in _by_batch_or_whole()]


def _add_rms_norm(x: Any, residual: Any, weight: Any, eps: float, weight_offset: float) -> _Rules:
    return [([p, p, p], [p, p, Replicate(), None, None]) for p in _by_batch_or_whole()]


def _rms_norm_backward(
    grad_y: Any, grad_residual_out: Any, h: Any, weight: Any, rstd: Any, weight_offset: float
) -> _Rules:
    rules: _Rules = []
    for p in _by_batch_or_whole():
        sums = Partial() if isinstance(p, Shard) else p
        passed = None if grad_residual_out is None else p
        rules.append(([p, sums], [p, passed, p, Replicate(), p, None]))
    return rules


def _everywhere(x: Any) -> list[Any]:
    return [Replicate(), *(Shard(dim) for dim in range(x.ndim))]


def _glu(gate: Any, up: Any, activation: str) -> _Rules:
    return [([p], [p, p, None]) for p in _everywhere(gate)]


def _glu_backward(grad_out: Any, gate: Any, up: Any, activation: str) -> _Rules:
    return [([p, p], [p, p, p, None]) for p in _everywhere(gate)]


def _activate(x: Any, activation: str) -> _Rules:
    return [([p], [p, None]) for p in _everywhere(x)]


def _activate_backward(grad_out: Any, x: Any, activation: str) -> _Rules:
    return [([p, p], [p, p, None]) for p in _everywhere(x)]


def _rope(q: Any, k: Any, cos: Any, sin: Any, position_ids: Any, interleaved: bool, inverse: bool) -> _Rules:
    rules: _Rules = []
    for p in (Replicate(), Shard(0), Shard(1)):
        # Positions of their own for every row of the batch go where the rows go.
        own = (
            p == Shard(0)
            and position_ids is not None
            and position_ids.ndim == 2
            and position_ids.shape[0] > 1
        )
        positions = None if position_ids is None else (p if own else Replicate())
        rules.append(([p, p], [p, p, Replicate(), Replicate(), positions, None, None]))
    return rules
