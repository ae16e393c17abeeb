"""What the training nodes of a block are made of: kernels called directly, forward and backward.

An operator that autograd records costs several times its own dispatch in Python. The nodes of `pyllm.nn` record
once for half a block and call what is here inside `direct()`, where autograd and autocast are out of the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyllm.nn.attention import Attention
from pyllm.nn.layer_norm import LayerNorm
from pyllm.nn.linear import Linear
from pyllm.nn.mlp import MLP, GatedMLP
from pyllm.nn.rms_norm import RMSNorm
from pyllm.ops import _library
from pyllm.ops.linear import grad_bias, grad_input, grad_weight

_WRAPPERS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCPU
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PLAIN = (Linear, RMSNorm, LayerNorm, Attention, GatedMLP, MLP)


def direct() -> torch._C._ExcludeDispatchKeyGuard:
    """Context in which operators run their CPU kernel and nothing else."""
    return torch._C._ExcludeDispatchKeyGuard(_WRAPPERS)


def can_run_directly(x: Tensor, modules: Iterable[torch.nn.Module]) -> bool:
    """Whether gradients of kernels on this device are asked for, and `modules` with all inside are what they seem:
    not replaced by adapters, not parametrized, without hooks, and no tracer of torch's is looking.
    """
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and type(x) is Tensor
        and _library.LOADED
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch.nn.modules.module._has_any_global_hook()
        and all(map(_is_plain, modules))
    )


def _is_plain(module: torch.nn.Module) -> bool:
    return (
        type(module) in _PLAIN
        and not any(module.__dict__[hooks] for hooks in _HOOKS)
        and all(type(p) is torch.nn.Parameter for p in module._parameters.values() if p is not None)
        and all(_is_plain(inner) for inner in module._modules.values() if inner is not None)
    )


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products on x here: autocast's, or x's own."""
    if torch.is_autocast_enabled("cpu") and x.dtype is not torch.float64:
        return torch.get_autocast_dtype("cpu")
    return x.dtype


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in `dtype`, without an operator's call where it is so already."""
    return x if x.dtype is dtype else x.to(dtype)


def _cast_bias(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else cast(bias, dtype)


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`ops.linear` in x's dtype."""
    return torch.ops.pyllm.linear.default(x, cast(weight, x.dtype), _cast_bias(bias, x.dtype), False)


def project_gradients(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias, None where none is asked for; a float32 weight gets the unrounded sums."""
    return (
        grad_weight(grad_y, x, weight.dtype) if weight.requires_grad else None,
        grad_bias(grad_y) if bias is not None and bias.requires_grad else None,
    )


def project_back(*products: tuple[Tensor, Tensor]) -> Tensor:
    """Gradient of an x that several weights have multiplied: the sum of grad_y @ weight over the pairs, in order."""
    (grad_y, weight), *others = products
    total = grad_input(grad_y, cast(weight, grad_y.dtype))
    for grad_y, weight in others:
        total += grad_input(grad_y, cast(weight, grad_y.dtype))
    return total


@dataclass(frozen=True)
class Norm:
    """A normalization over the last dimension: `centered` is LayerNorm, otherwise RMSNorm by weight + `offset`."""

    centered: bool
    eps: float
    offset: float

    @staticmethod
    def of(module: RMSNorm | LayerNorm, dtype: torch.dtype) -> Norm:
        """What `module` does to a tensor of `dtype`."""
        eps = torch.finfo(dtype).eps if module.eps is None else module.eps
        if isinstance(module, LayerNorm):
            return Norm(True, eps, 0.0)
        return Norm(False, eps, module.weight_offset)

    def forward(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(normalized h, h) with h = x, or x + residual."""
        if residual is None:
            return self.again(x, weight, bias)[0], x
        weight, residual = cast(weight, x.dtype), cast(residual, x.dtype)
        if not self.centered:
            return torch.ops.pyllm.add_rms_norm.default(x, residual, weight, self.eps, self.offset)[:2]
        bias = _cast_bias(bias, x.dtype)
        return torch.ops.pyllm.add_layer_norm.default(x, residual, weight, bias, self.eps)[:2]

    def again(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(normalized h, statistics for `backward`): the same bits as `forward`'s."""
        weight = cast(weight, h.dtype)
        if self.centered:
            bias = _cast_bias(bias, h.dtype)
            y, *statistics = torch.ops.pyllm.layer_norm.default(h, weight, bias, self.eps)
        else:
            y, *statistics = torch.ops.pyllm.rms_norm.default(h, weight, self.eps, self.offset)
        return y, tuple(statistics)

    def backward(
        self,
        grad_y: Tensor,
        grad_h: Tensor | None,
        h: Tensor,
        statistics: tuple[Tensor, ...],
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of h (of x and residual alike), weight and bias."""
        arguments = (grad_y, grad_h, h, cast(weight, h.dtype), *statistics)
        if not self.centered:
            return *torch.ops.pyllm.rms_norm_backward.default(*arguments, self.offset), None
        grad, grad_weight, grad_bias = torch.ops.pyllm.layer_norm_backward.default(*arguments)
        return grad, grad_weight, None if bias is None else grad_bias
