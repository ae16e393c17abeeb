"""All layers of a decoder and its last norm over a paged cache, as one call."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyllm.ops import _library
from pyllm.ops.paged_attention import PagedKVCache
from pyllm.ops.quantized_tensor import QuantizedTensor

Norm = tuple[Tensor, Tensor | None]  # weight and bias
LinearLayer = tuple[Tensor | QuantizedTensor, Tensor | None]


class DecoderLayerTensors(NamedTuple):
    """Weights and biases of one layer, None where it has no such part.

    Attributes:
        before_attention, after_attention, before_mlp, after_mlp: norms, (hidden_size,).
        query, key: RMSNorms of each head, (head_dim,).
        q, k, v, o, gate, up, down: projections, (out, in).
        window: sliding window in tokens.
    """

    before_attention: Norm
    query: Norm | None
    key: Norm | None
    after_attention: Norm | None
    before_mlp: Norm | None
    after_mlp: Norm | None
    q: LinearLayer
    k: LinearLayer
    v: LinearLayer
    o: LinearLayer
    gate: LinearLayer | None
    up: LinearLayer
    down: LinearLayer
    window: int | None


class DecoderNetwork:
    """What `decoder_step` has to know of a network, told once. Its tensors live as long as this object.

    They may change in place, or get another storage through `.data`: they are looked at anew in every step.

    Args:
        layers: tensors of each layer; those that are not quantized have one dtype.
        last_norm: behind the last layer.
        hidden_size, intermediate_size, heads, kv_heads, head_dim: sizes that all layers share.
        eps, norm_offset: of all norms; the offset is added to an RMSNorm's weight.
        layer_norm: norms of hidden states are LayerNorms, not RMSNorms.
        activation: "silu", "gelu" or "gelu_tanh".
        scale, softcap: of the scores, as in `pyllm.ops.attention`.
        parallel_block: attention and MLP read the same norm and both are added.
        interleaved: as in `pyllm.ops.rope`.

    Raises:
        ValueError: a quantized weight has permuted columns. RuntimeError: sizes do not fit.
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayerTensors],
        last_norm: Norm,
        *,
        hidden_size: int,
        intermediate_size: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        eps: float,
        norm_offset: float = 0.0,
        layer_norm: bool = False,
        activation: str = "silu",
        scale: float | None = None,
        softcap: float | None = None,
        parallel_block: bool = False,
        interleaved: bool = False,
    ) -> None:
        tensors: list[Tensor] = []
        formats: list[str] = []
        for layer in layers:
            for norm in layer[:6]:
                tensors += _pair(norm)
            for linear in layer[6:13]:
                tensors += _pair(linear)
                weight = None if linear is None else linear[0]
                formats.append(weight.format if isinstance(weight, QuantizedTensor) else "")
        tensors += _pair(last_norm)
        self.num_layers = len(layers)
        self._id: int = torch.ops.pyllm.decoder_network(
            tensors,
            formats,
            [layer.window or 0 for layer in layers],
            [hidden_size, intermediate_size, heads, kv_heads, head_dim],
            [eps, norm_offset, 1 / math.sqrt(head_dim) if scale is None else scale, softcap or 0.0],
            activation,
            layer_norm,
            parallel_block,
            interleaved,
        )
        weakref.finalize(self, torch.ops.pyllm.free_decoder_network.default, self._id)


def _pair(parameters: LinearLayer | None) -> tuple[Tensor, Tensor]:
    """Weight and bias as the operator takes them: empty where there is none."""
    weight, bias = parameters or (torch.empty(0), None)
    if isinstance(weight, QuantizedTensor):
        if weight.permutation is not None:
            raise ValueError("DecoderNetwork: a quantized weight must have its columns in order")
        weight = weight.data
    return weight, torch.empty(0) if bias is None else bias


def decoder_step(
    x: Tensor,
    network: DecoderNetwork,
    caches: Sequence[PagedKVCache],
    angles: Sequence[Tensor],
    position_ids: Tensor,
    block_tables: Sequence[Tensor],
    lengths: Tensor,
    cu_seqlens_q: Tensor,
    *,
    prefix_lengths: Tensor | None = None,
) -> Tensor:
    """Stores the tokens' keys and values and returns the last norm's output, (tokens, hidden_size).

    To the bit what the single ops give one after the other. Not differentiable, and only with compiled operators.

    Args:
        x: (tokens, hidden_size), embeddings of the new tokens of all sequences, each sequence's side by side.
        caches: one per layer, of one page size and x's dtype; changed in place.
        angles: cos and sin for RoPE, (positions, rotary_dim / 2) float32 (float64 for float64 x); or (cos, sin,
            cos, sin), the second pair for layers with a window; or nothing: no RoPE.
        position_ids: integers (tokens,): each token's place in its sequence.
        block_tables: int32 or int64 (sequences, max_pages), one for all layers or one for each.
        lengths: integers (sequences,), tokens of each sequence, the new ones included.
        cu_seqlens_q: integers (sequences + 1,), borders of the sequences in x.
        prefix_lengths: integers (sequences,), tokens that are visible to all of their sequence.

    Raises:
        ValueError: positions, lengths or pages out of range; nothing has been written then. RuntimeError: shapes or
            dtypes do not fit.
    """
    if not _library.has_kernels(x):
        raise RuntimeError("decoder_step: needs the compiled operators, on the CPU")
    if not caches or len(caches) != network.num_layers:
        raise ValueError(
            f"decoder_step: caches must have one entry for each of {network.num_layers} layers, got {len(caches)}"
        )
    if any(cache.page_size != caches[0].page_size for cache in caches):
        raise ValueError("decoder_step: caches must have one page size")
    hidden: Tensor = torch.ops.pyllm.decoder_step.default(
        x,
        network._id,
        [cache.data for cache in caches],
        list(angles),
        position_ids,
        list(block_tables),
        lengths,
        prefix_lengths,
        cu_seqlens_q,
        caches[0].page_size,
    )
    return hidden


@_library.register_fake("decoder_step")
def _(x: Tensor, *arguments: object) -> Tensor:
    return x.new_empty(x.shape)
