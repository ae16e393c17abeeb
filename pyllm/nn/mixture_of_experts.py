"""Mixtures of experts: many MLPs, of which each token visits a few."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pyllm import ops
from pyllm.nn.linear import Linear
from pyllm.nn.mlp import GatedMLP
from pyllm.ops import QuantizedTensor


class ExpertLinear(torch.nn.Module):
    """One bias-free linear layer per expert, over rows sorted by expert.

    x (rows, in), offsets (experts + 1,) -> (rows, out), see `pyllm.ops.grouped_linear`. Parameter: weight (experts,
    out, in).
    """

    def __init__(
        self,
        num_experts: int,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (num_experts, out_features, in_features)
        self.weight = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if not self.weight.is_meta:
            bound = 1 / math.sqrt(in_features)
            torch.nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        return ops.grouped_linear(x, self.weight, offsets)


class QuantizedExpertLinear(torch.nn.Module):
    """`ExpertLinear` over weights that stay quantized, one (out, in) per expert; frozen, not in the state dict."""

    def __init__(self, weights: Sequence[QuantizedTensor]) -> None:
        super().__init__()
        self.weights = list(weights)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        return ops.grouped_linear(x, self.weights, offsets)


class Experts(torch.nn.Module):
    """Gated MLPs side by side: x (rows, hidden) sorted by expert -> (rows, hidden)."""

    def __init__(
        self,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        inward = (num_experts, hidden_size, intermediate_size, device, dtype)
        self.gate_proj, self.up_proj = ExpertLinear(*inward), ExpertLinear(*inward)
        self.down_proj = ExpertLinear(num_experts, intermediate_size, hidden_size, device, dtype)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        gate, up = self.gate_proj(x, offsets), self.up_proj(x, offsets)
        return self.down_proj(ops.glu(gate, up, activation=self.activation), offsets)


class MixtureOfExpertsMLP(torch.nn.Module):
    """Each token through the experts that its router likes best, weighted by their probabilities (arXiv 2401.04088).

    x (..., hidden) -> (..., hidden). Parameters: gate (experts, hidden), the router; experts.{gate,up,down}_proj; with
    `shared_intermediate_size` also shared_expert (a `GatedMLP` for every token) and shared_expert_gate (1, hidden),
    whose sigmoid weights it (Qwen). Probabilities are float32. A token adds up its experts in the order of their
    numbers, so neither its neighbours nor ties between probabilities change its bits.

    Args:
        normalize: the probabilities of the chosen experts are divided by their sum.
        activation: as in `GatedMLP`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        experts_per_token: int,
        intermediate_size: int,
        *,
        normalize: bool = True,
        shared_intermediate_size: int | None = None,
        activation: str = "silu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_experts, self.experts_per_token, self.normalize = num_experts, experts_per_token, normalize
        self.gate = Linear(hidden_size, num_experts, False, device, dtype)
        self.experts = Experts(num_experts, hidden_size, intermediate_size, activation, device, dtype)
        self.shared_expert = self.shared_expert_gate = None
        if shared_intermediate_size is not None:
            self.shared_expert = GatedMLP(
                hidden_size, shared_intermediate_size, activation=activation, device=device, dtype=dtype
            )
            self.shared_expert_gate = Linear(hidden_size, 1, False, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weights, chosen = self._route(rows)
        y = self._visit(rows, weights, chosen)
        if self.shared_expert is not None and self.shared_expert_gate is not None:
            # torch.sigmoid rounds otherwise at the end of a vector, so by a row's place; softmax goes row by row.
            gate = torch.softmax(F.pad(self.shared_expert_gate(rows), (0, 1)), -1)[:, :1]
            y = y + gate * self.shared_expert(rows)
        return y.view(x.shape)

    def _route(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of each row's experts, (rows, experts_per_token), by number."""
        wide = torch.promote_types(rows.dtype, torch.float32)
        probabilities = torch.softmax(self.gate(rows), -1, dtype=wide)
        weights, chosen = probabilities.topk(self.experts_per_token, -1)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        chosen, order = chosen.sort(-1)
        return weights.gather(-1, order).to(rows.dtype), chosen

    def _visit(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Sum over each row's experts; the rows are copied once per visit, in the order of the experts."""
        visits = chosen.flatten()
        order = visits.argsort(stable=True)
        counts = torch.bincount(visits, minlength=self.num_experts)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).cpu()
        sorted_rows = rows[order // self.experts_per_token]
        outputs = self.experts(sorted_rows, offsets) * weights.flatten()[order, None]
        per_row = outputs[order.argsort()].unflatten(0, chosen.shape)
        # One addition after the other: a reduction's order is its own affair.
        total = per_row[:, 0]
        for visit in range(1, self.experts_per_token):
            total = total + per_row[:, visit]
        return total
