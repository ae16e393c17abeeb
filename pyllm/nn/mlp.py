"""The MLPs of decoders: gated, as in LLaMA, and plain, as in GPT-2."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm import ops
from pyllm.nn.linear import Linear
from pyllm.ops.swiglu import ACTIVATIONS


class GatedMLP(torch.nn.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU with "silu", GEGLU with "gelu" (arXiv 2002.05202).

    x (..., hidden) -> (..., hidden). Parameters: gate_proj, up_proj (intermediate, hidden), down_proj
    (hidden, intermediate), as in transformers.

    Args:
        activation: "silu", "gelu" (erf) or "gelu_tanh".
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        bias: bool = False,
        activation: str = "silu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate_proj = Linear(hidden_size, intermediate_size, bias, device, dtype)
        self.up_proj = Linear(hidden_size, intermediate_size, bias, device, dtype)
        self.down_proj = Linear(intermediate_size, hidden_size, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.glu(self.gate_proj(x), self.up_proj(x), activation=self.activation))


class MLP(torch.nn.Module):
    """down(activation(up(x))): the MLP of GPT-2, where the activation is "gelu_tanh".

    x (..., hidden) -> (..., hidden). Parameters: up_proj (intermediate, hidden), down_proj (hidden,
    intermediate).

    Args:
        activation: "silu", "gelu" (erf) or "gelu_tanh".

    Raises:
        ValueError: the activation is unknown.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        bias: bool = True,
        activation: str = "gelu_tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.activation = activation
        self.up_proj = Linear(hidden_size, intermediate_size, bias, device, dtype)
        self.down_proj = Linear(intermediate_size, hidden_size, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.activate(self.up_proj(x), self.activation))
