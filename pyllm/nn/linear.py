"""Linear layer over `pyllm.ops.linear`."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm import ops


class Linear(torch.nn.Linear):
    """Drop-in for `torch.nn.Linear`: same arguments, parameters (`weight` (out, in), `bias` (out,)) and init.

    x (..., in) -> (..., out), in x's dtype.
    """

    def reset_parameters(self) -> None:
        """Draws weights as torch does, but not on the meta device: that would import torch's compiler for nothing."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)
