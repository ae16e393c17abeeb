"""The same function with other weights: norm gains folded away, channels rotated, the head untied.

A weight that was quantized once lies on a grid, and quantizing it again to a finer one costs nothing: no base to
measure formats against. What a transformer computes does not depend on the basis its channels are written in, so the
weights can be moved off every grid without a change of the function (Ashkboos et al., SliceGPT and QuaRot, 2024).

    RMSNorm   norm(x) * g, then W              = norm(x), then W diag(g)
    residual  h becomes h R, R orthogonal      norms without gain commute with it; readers W R, writers R^T W
    values    o_proj v_proj of one head        = (o_proj S) (S^T v_proj), S orthogonal
    MLP       hidden units                     may stand in any order

A norm on the way into the residual stream (Gemma's sandwich) keeps its gain, which commutes with permutations alone:
there R is one, and no gain is folded, because without a rotation that spreads them Gemma's largest gains would stand in
single columns that no format could hold. The blocks of a quantized weight then hold columns of many old blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyllm.models.transformer import Transformer

# Last dimension of a float64 tensor in the new basis.
Basis = Callable[[Tensor], Tensor]
# Rows of a large table that are float64 at once.
_ROWS = 16384


@torch.no_grad()
def rotated(network: Transformer, seed: int = 0) -> Transformer:
    """A network of the same function and dtype whose weights lie on no grid; its head is its own.

    Products are made in float64.

    Args:
        network: plain weights, RMSNorm and gated MLPs.
        seed: of the rotations.

    Raises:
        ValueError: a quantized network, or one with LayerNorm, learned positions, a plain MLP, experts or
            parallel blocks.
    """
    config = network.config
    if network.is_quantized:
        raise ValueError("the network is quantized; load it with a dtype, which dequantizes it")
    if config.norm != "rms_norm" or config.position_embedding != "rope" or not config.gated_mlp:
        raise ValueError("only networks with RMSNorm, RoPE and gated MLPs are rotated")
    if config.experts is not None or config.parallel_block:
        raise ValueError("networks with experts or parallel blocks are not rotated")
    result: Any = Transformer(dataclasses.replace(config, tie_word_embeddings=False), device="meta")
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"].clone())
    result.load_state_dict(state, assign=True)
    generator = torch.Generator().manual_seed(seed)
    folds = not config.sandwich_norms
    basis = (_rotation if folds else _permutation)(config.hidden_size, generator)
    _change_rows(result.model.embed_tokens, basis)
    for layer in result.model.layers:
        _change_layer(layer, basis, folds)
        _rotate_values(layer.self_attn, config.num_key_value_heads, config.head_dim, generator)
        _permute_hidden_units(layer.mlp, generator)
    _take_gain(result.model.norm, [result.lm_head], basis, folds)
    _change_rows(result.lm_head, basis)
    turned: Transformer = result.eval()
    return turned


def _rotation(size: int, generator: torch.Generator) -> Basis:
    matrix = _orthogonal(size, generator)
    return lambda x: x @ matrix


def _permutation(size: int, generator: torch.Generator) -> Basis:
    order = torch.randperm(size, generator=generator)
    return lambda x: x[..., order]


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """Uniform over the orthogonal matrices: the signs make the decomposition unique."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def _change_layer(layer: Any, basis: Basis, folds: bool) -> None:
    """The residual stream in the new basis."""
    attention, mlp = layer.self_attn, layer.mlp
    before_attention, before_mlp, after_attention, after_mlp = layer._norms()
    into_attention = (attention.q_proj, attention.k_proj, attention.v_proj)
    _take_gain(before_attention, into_attention, basis, folds)
    _take_gain(before_mlp, (mlp.gate_proj, mlp.up_proj), basis, folds)
    for reader in (*into_attention, mlp.gate_proj, mlp.up_proj):
        _change_rows(reader, basis)
    for writer in (attention.o_proj, mlp.down_proj):
        writer.weight.copy_(basis(writer.weight.double().T).T)
        if writer.bias is not None:
            writer.bias.copy_(basis(writer.bias.double()))
    if layer.pre_feedforward_layernorm is not None:
        for norm in (after_attention, after_mlp):
            norm.weight.copy_(basis(norm.weight.double()))


def _take_gain(norm: Any, readers: Iterable[Any], basis: Basis, folds: bool) -> None:
    """The norm's gain into the weights that follow it, or into the new order of channels."""
    if not folds:
        norm.weight.copy_(basis(norm.weight.double()))
        return
    gain = norm.weight.double() + norm.weight_offset
    for reader in readers:
        for rows in reader.weight.split(_ROWS):
            rows.copy_(rows.double() * gain)
    norm.weight.fill_(1.0 - norm.weight_offset)


def _change_rows(module: Any, basis: Basis) -> None:
    for rows in module.weight.split(_ROWS):
        rows.copy_(basis(rows.double()))


def _rotate_values(attention: Any, kv_heads: int, head_dim: int, generator: torch.Generator) -> None:
    """Each key-value head's values by a rotation of their own, undone in the columns that read them."""
    spins = torch.stack([_orthogonal(head_dim, generator) for _ in range(kv_heads)])
    value, output = attention.v_proj, attention.o_proj
    rows = value.weight.double().view(kv_heads, head_dim, -1)
    value.weight.copy_((spins.mT @ rows).reshape(value.weight.shape))
    if value.bias is not None:
        turned = spins.mT @ value.bias.double().view(kv_heads, head_dim, 1)
        value.bias.copy_(turned.flatten())
    # (out, kv head, query head of it, head_dim)
    columns = output.weight.double().view(output.weight.shape[0], kv_heads, -1, head_dim)
    output.weight.copy_((columns @ spins).reshape(output.weight.shape))


def _permute_hidden_units(mlp: Any, generator: torch.Generator) -> None:
    order = torch.randperm(mlp.down_proj.weight.shape[1], generator=generator)
    for projection in (mlp.gate_proj, mlp.up_proj):
        projection.weight.copy_(projection.weight[order])
        if projection.bias is not None:
            projection.bias.copy_(projection.bias[order])
    mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order])
