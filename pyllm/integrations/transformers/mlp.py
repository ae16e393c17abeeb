"""Gated MLPs (SwiGLU, GeGLU) and activations of any transformers model by `pyllm.ops.glu` and `pyllm.ops.activate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyllm import ops
from pyllm.integrations.transformers.likeness import (
    COLUMNS,
    agrees,
    draw,
    result,
    small_copy,
    small_linear,
)
from pyllm.ops.swiglu import ACTIVATIONS, activate_reference, glu_reference

_WIDTH = 6
# The rest of transformers.activations is one call of torch's, which runs in one pass already.
_COMPOSED = ("NewGELUActivation", "FastGELUActivation")


@dataclass(frozen=True)
class _Names:
    """What the parts of a gated MLP are called; gate and up are one projection, halves side by side, if up is None."""

    gate: str
    up: str | None
    down: str


_GATED = (
    _Names("gate_proj", "up_proj", "down_proj"),
    _Names("gate_up_proj", None, "down_proj"),
    _Names("wi_0", "wi_1", "wo"),
    _Names("w1", "w3", "w2"),
)


def gated_mlp_forward(module: torch.nn.Module) -> Callable[..., Tensor] | None:
    """A forward for `module` on our op, or None if it is no gated MLP that we know."""
    for names in _GATED:
        wanted = [name for name in (names.gate, names.up, names.down) if name is not None]
        if all(isinstance(getattr(module, name, None), torch.nn.Module) for name in wanted):
            activation = _gated_activation(module, names)
            return None if activation is None else _gated_forward(names, activation)
    return None


def _gated_activation(module: torch.nn.Module, names: _Names) -> str | None:
    gate, up = small_linear(COLUMNS, _WIDTH, 1), small_linear(COLUMNS, _WIDTH, 2)
    down, x = small_linear(_WIDTH, COLUMNS, 3), draw(2, 5, COLUMNS, seed=4)
    parts = {names.down: down}
    if names.up is None:
        both = small_linear(COLUMNS, 2 * _WIDTH, 1)
        both.weight.data = torch.cat((gate.weight, up.weight))
        parts[names.gate] = both
    else:
        parts |= {names.gate: gate, names.up: up}
    theirs = result(small_copy(module, parts).forward, x)
    return next((a for a in ACTIVATIONS if agrees(down(glu_reference(gate(x), up(x), a)), theirs)), None)


def _gated_forward(names: _Names, activation: str) -> Callable[..., Tensor]:
    def forward(self: torch.nn.Module, hidden_states: Tensor) -> Tensor:
        gate: Tensor = getattr(self, names.gate)(hidden_states)
        if names.up is None:
            gate, up = gate.chunk(2, dim=-1)
        else:
            up = getattr(self, names.up)(hidden_states)
        product = ops.glu(gate, up, activation)
        dropout = self._modules.get("dropout")
        return getattr(self, names.down)(product if dropout is None else dropout(product))

    return forward


def composed_activations(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, str]]:
    """(name, module, our name) of activations that are written as several operators."""
    x = draw(64, seed=5)
    for name, module in model.named_modules():
        if type(module).__module__ == "transformers.activations" and type(module).__name__ in _COMPOSED:
            theirs = result(type(module).forward, module, x)
            ours = next((a for a in ACTIVATIONS if agrees(activate_reference(x, a), theirs)), None)
            if ours is not None:
                yield name, module, ours


def activation_forward(activation: str) -> Callable[..., Tensor]:
    """A forward for a module that is this activation."""

    def forward(self: torch.nn.Module, input: Tensor) -> Tensor:
        return ops.activate(input, activation)

    return forward
