"""Experts of any transformers mixture by `pyllm.ops.grouped_linear`: an entry of transformers' ExpertsInterface."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyllm import ops
from pyllm.integrations.transformers.likeness import agrees, draw, result
from pyllm.ops.swiglu import ACTIVATIONS, activate_reference

IMPLEMENTATION = "pyllm"
_THEIRS = "grouped_mm"


def register_experts() -> bool:
    """Adds the entry; False where transformers has no such interface (before 5.0)."""
    try:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    except ImportError:
        return False
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_forward)
    return True


def why_not(module: torch.nn.Module) -> str | None:
    """Why a class of experts stays with transformers' products; None if it does not."""
    options = {
        "is_transposed": "its weights lie (experts, in, out)",
        "has_bias": "it has biases",
        "has_post_expert_norm": "it has a norm behind each expert",
    }
    for option, reason in options.items():
        if getattr(module, option, True):
            return reason
    return None if getattr(module, "has_gate", False) else "it has no gate"


def experts_forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """x (rows, hidden), the experts (rows, k) of each and their weights -> (rows, hidden): see `ExpertsInterface`."""
    weights = (self.gate_up_proj, self.down_proj)
    fits = hidden_states.is_cpu and (
        all(weight.dtype == hidden_states.dtype for weight in weights) or torch.is_autocast_enabled("cpu")
    )
    if not fits or self._is_expert_parallel or why_not(self) is not None:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

        theirs: Tensor = ALL_EXPERTS_FUNCTIONS[_THEIRS](self, hidden_states, top_k_index, top_k_weights)
        return theirs
    activation = _activation(self.act_fn.__class__) if _has_plain_gate(self) else None

    def run(rows: Tensor, offsets: Tensor) -> Tensor:
        both = ops.grouped_linear(rows, weights[0], offsets)
        if activation is None:
            return ops.grouped_linear(self._apply_gate(both), weights[1], offsets)
        gate, up = both.chunk(2, dim=-1)
        return ops.grouped_linear(ops.glu(gate, up, activation), weights[1], offsets)

    return visit_experts(hidden_states, top_k_index, top_k_weights, self.num_experts, run)


def visit_experts(
    x: Tensor, chosen: Tensor, weights: Tensor, num_experts: int, run: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Each row of x (rows, hidden) through its `chosen` experts (rows, k), weighted and added up.

    `run` takes rows sorted by expert and the offsets (num_experts + 1,) of `grouped_linear`.
    """
    visits = chosen.flatten()
    order = visits.argsort(stable=True)
    counts = torch.bincount(visits, minlength=num_experts)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).cpu()
    y = run(x[order // chosen.shape[-1]], offsets) * weights.flatten()[order, None]
    return y[order.argsort()].unflatten(0, chosen.shape).sum(1).to(x.dtype)


def _has_plain_gate(experts: Any) -> bool:
    from transformers.integrations import moe

    return getattr(type(experts), "_apply_gate", None) is moe._default_apply_gate


@functools.cache
def _activation(function: Callable[[], Any]) -> str | None:
    """Our name of an activation of transformers', given its class, tried out."""
    x = draw(64, seed=5)
    theirs = result(lambda: function()(x))
    return next((name for name in ACTIVATIONS if agrees(activate_reference(x, name), theirs)), None)
