"""The gated MLP of LLaMA-like models."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm import ops
from pyllm.nn.linear import Linear


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
