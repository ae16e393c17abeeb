"""Linear layers of a transformers model by `pyllm.ops.linear`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyllm import ops


def linear_forward(module: torch.nn.Module) -> Callable[..., Tensor] | None:
    """A forward for torch's Linear, or GPT-2's Conv1D with its transposed weight; None for anything else."""
    if type(module) is torch.nn.Linear:
        return _linear
    if type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils":
        return _conv1d
    return None


def _linear(self: torch.nn.Module, input: Tensor) -> Tensor:
    weight, bias = self._parameters["weight"], self._parameters["bias"]
    assert weight is not None
    if not _fits(input, weight):
        return torch.nn.functional.linear(input, weight, bias)
    return ops.linear(input, weight, bias)


def _conv1d(self: torch.nn.Module, x: Tensor) -> Tensor:
    weight, bias = self._parameters["weight"], self._parameters["bias"]
    assert weight is not None
    if not _fits(x, weight):
        return torch.nn.functional.linear(x, weight.t(), bias)
    return ops.linear(x, weight.t(), bias)


def _fits(x: Tensor, weight: Tensor) -> bool:
    return x.is_cpu and (x.dtype == weight.dtype or torch.is_autocast_enabled("cpu"))
