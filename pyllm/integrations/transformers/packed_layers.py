"""Layers whose weights stay quantized and that pass for torch's own: transformers and PEFT take them as such."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyllm import ops
from pyllm.integrations.transformers.experts import visit_experts
from pyllm.nn.mixture_of_experts import QuantizedExpertLinear
from pyllm.ops import QuantizedTensor

_Weights = Sequence[QuantizedTensor]


class FrozenLinear(torch.nn.Linear):
    """torch's Linear in the place of `linear`; its weight is a buffer outside the state dict, there after `fill`."""

    def __init__(self, linear: torch.nn.Module, shape: tuple[int, ...]) -> None:
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.register_parameter("bias", linear._parameters.get("bias"))
        self._is_hf_initialized = True  # transformers draws no weights for it

    def fill(self, weight: Tensor) -> None:
        """Gives the layer its weight."""
        self.register_buffer("weight", weight, persistent=False)


class PackedLinear(FrozenLinear):
    """torch's Linear computed from codes (`pyllm.ops.quantized_linear`); gradients reach x and the bias.

    x (..., in) -> (..., out), in x's dtype. `weight` is the packed bytes (n,) uint8, there after `pack`.
    """

    def pack(self, packed: QuantizedTensor) -> None:
        """Gives the layer its weight."""
        self.format = packed.format
        self.fill(packed.data)
        self.register_buffer("permutation", packed.permutation, persistent=False)

    def quantized(self) -> QuantizedTensor:
        """The weight, as pyllm's ops take it."""
        shape = torch.Size((self.out_features, self.in_features))
        permutation = self._buffers["permutation"]
        return QuantizedTensor(self.format, shape, self.weight, permutation)

    def forward(self, input: Tensor) -> Tensor:
        return ops.quantized_linear(input, self.quantized(), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, format={getattr(self, 'format', None)}"


class PackedEmbedding(torch.nn.Embedding):
    """torch's Embedding over GGUF blocks, unpacked row by row as they are looked up, times `scale`.

    ids (...) int64 -> (..., dim) in `dtype`. `weight` is the blocks (rows, bytes of a row) uint8, a buffer outside the
    state dict; it is there after `pack`.
    """

    def __init__(self, embedding: torch.nn.Embedding, dtype: torch.dtype) -> None:
        torch.nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx, self.dtype = embedding.padding_idx, dtype
        self.scale = float(getattr(embedding, "scalar_embed_scale", 1.0))
        self._is_hf_initialized = True

    def pack(self, format: str, blocks: Tensor) -> None:
        """Gives the layer its table."""
        self.format = format
        self.register_buffer("weight", blocks, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        taken = self.weight.index_select(0, input.flatten())
        values = torch.ops.pyllm.dequantize_gguf.default(taken.flatten(), self.format, self.dtype)
        values = values.view(*input.shape, self.embedding_dim)
        return values if self.scale == 1.0 else values * torch.tensor(self.scale, dtype=self.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, format={getattr(self, 'format', None)}"


class PackedExperts(torch.nn.Module):
    """The experts of one layer of a transformers mixture, each matrix quantized on its own; frozen.

    x (rows, hidden), the experts (rows, k) of each and their weights -> (rows, hidden). Gradients reach x and the
    weights of the experts.
    """

    def __init__(self, experts: Any) -> None:
        super().__init__()
        self.num_experts, self.act_fn = experts.num_experts, experts.act_fn
        self._is_hf_initialized = True

    def pack(
        self, gate: Sequence[QuantizedTensor], up: Sequence[QuantizedTensor], down: Sequence[QuantizedTensor]
    ) -> None:
        """Gives the layer its weights, one (out, in) per expert."""
        self.gate_proj, self.up_proj = QuantizedExpertLinear(gate), QuantizedExpertLinear(up)
        self.down_proj = QuantizedExpertLinear(down)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        def run(rows: Tensor, offsets: Tensor) -> Tensor:
            gate, up = self.gate_proj(rows, offsets), self.up_proj(rows, offsets)
            return self.down_proj(self.act_fn(gate) * up, offsets)

        return visit_experts(hidden_states, top_k_index, top_k_weights, self.num_experts, run)
