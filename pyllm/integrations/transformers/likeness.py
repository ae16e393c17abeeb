"""Whether a module of somebody else's computes what we think: tried out on a small copy, not read off its name.

A class called RMSNorm may scale by 1 + weight, an MLP may hold a step that its attribute names do not show. The copy is
an instance of the same class made without its `__init__`, with the module's settings and a few small random weights in
float64; it runs the class's own forward. Only what gives our numbers is replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

COLUMNS = 8


def small_copy(module: torch.nn.Module, parts: Mapping[str, Any]) -> torch.nn.Module:
    """An instance of the module's class with its plain settings and `parts` in the place of its weights, evaluating."""
    copy = type(module).__new__(type(module))
    torch.nn.Module.__init__(copy)
    own = vars(copy)
    for name, value in vars(module).items():
        if name not in own and not name.startswith("_") and name != "forward":
            own[name] = value
    for name, child in module._modules.items():
        if child is not None and not any(True for _ in child.parameters()):
            copy.add_module(name, child)
    for name, part in parts.items():
        setattr(copy, name, part)
    copy.training = False
    return copy


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64, the same for the same seed; torch's global generator is left alone."""
    with torch.device("cpu"):
        return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small_linear(inputs: int, outputs: int, seed: int) -> torch.nn.Linear:
    """A linear layer in float64 with drawn weights and no bias."""
    with torch.device("meta"):
        linear = torch.nn.Linear(inputs, outputs, bias=False)
    linear.weight = torch.nn.Parameter(draw(outputs, inputs, seed=seed), requires_grad=False)
    return linear


@torch.no_grad()
def result(function: Callable[..., Any], *inputs: Any) -> Any:
    """What `function` makes of `inputs`, or None if it cannot be called like this."""
    # Whatever somebody else's code raises here means that it is not what we are looking for.
    with contextlib.suppress(Exception):
        return function(*inputs)
    return None


def agrees(ours: Any, theirs: Any) -> bool:
    """Whether two results are equal to float32 rounding, which some forwards compute in whatever the input."""
    return (
        isinstance(ours, Tensor)
        and isinstance(theirs, Tensor)
        and ours.shape == theirs.shape
        and torch.allclose(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6)
    )
