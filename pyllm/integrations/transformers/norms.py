"""RMSNorm of any transformers model by `pyllm.ops.rms_norm`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyllm import ops
from pyllm.integrations.transformers.likeness import COLUMNS, agrees, draw, result, small_copy
from pyllm.ops.rms_norm import rms_norm_reference

_EPS_NAMES = ("variance_epsilon", "eps", "epsilon")


def looks_like_rms_norm(module: torch.nn.Module) -> bool:
    """A weight of one dimension, nothing else, and a name that says norm without being LayerNorm of torch's."""
    weight = getattr(module, "weight", None)
    return (
        "Norm" in type(module).__name__
        and isinstance(weight, Tensor)
        and weight.dim() == 1
        and not any(True for _ in module.children())
        and len(list(module.parameters())) == 1
    )


def rms_norm_forward(module: torch.nn.Module) -> Callable[..., Tensor] | None:
    """A forward for `module` on our op, or None if it computes something else."""
    eps_name = next((name for name in _EPS_NAMES if isinstance(getattr(module, name, None), float)), None)
    if eps_name is None:
        return None
    weight, x = draw(COLUMNS, seed=1), draw(3, COLUMNS, seed=2)
    theirs = result(
        small_copy(module, {"weight": torch.nn.Parameter(weight, requires_grad=False)}).forward, x
    )
    eps = getattr(module, eps_name)
    for offset in (0.0, 1.0):
        if agrees(rms_norm_reference(x, weight, eps, weight_offset=offset), theirs):
            return _forward(eps_name, offset, type(module).forward)
    return None


def _forward(eps_name: str, weight_offset: float, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(self: torch.nn.Module, x: Tensor) -> Tensor:
        weight: Tensor = self.weight  # type: ignore[assignment]
        if not x.is_cpu or (weight.dtype != x.dtype and not torch.is_autocast_enabled("cpu")):
            return original(self, x)
        return ops.rms_norm(x, weight, getattr(self, eps_name), weight_offset=weight_offset)

    return forward
