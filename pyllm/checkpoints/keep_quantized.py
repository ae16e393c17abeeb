"""Puts stored quantized weights into a network as they are, in place of its plain layers."""

from __future__ import annotations

import torch

from pyllm.checkpoints.stored import StoredTensor
from pyllm.models.transformer import Transformer
from pyllm.nn.mixture_of_experts import QuantizedExpertLinear
from pyllm.nn.quantized import QuantizedEmbedding, QuantizedLinear
from pyllm.ops import QuantizedTensor, _library


def keep_quantized(network: Transformer, name: str, tensor: StoredTensor, dtype: torch.dtype) -> bool:
    """Replaces the layer whose weight is `name` by one that computes on `tensor` as it is stored.

    Args:
        network: on the meta device still.
        dtype: of the rows of an embedding.

    Returns:
        False if the tensor is not quantized, belongs to no such layer, or has no kernels: then nothing happened.
    """
    if tensor.parts:
        return _keep_experts(network, name, tensor)
    if tensor.quantized is None or not name.endswith(".weight") or not _library.LOADED:
        return False
    path = name.removesuffix(".weight")
    module = network.get_submodule(path)
    layer: torch.nn.Module
    if isinstance(module, torch.nn.Embedding) and tensor.blocks is not None:
        format, rows = tensor.blocks
        head = _packed(tensor) if network.config.tie_word_embeddings else None
        if head is None and network.config.tie_word_embeddings:
            return False
        layer = QuantizedEmbedding(rows(), format, dtype, head)
    elif isinstance(module, torch.nn.Linear):
        packed = _packed(tensor)
        if packed is None:
            return False
        layer = QuantizedLinear(packed, module.bias)
    else:
        return False
    network.set_submodule(path, layer)
    return True


def _keep_experts(network: Transformer, name: str, tensor: StoredTensor) -> bool:
    if any(part.quantized is None for part in tensor.parts) or not _library.LOADED:
        return False
    weights = [packed for packed in map(_packed, tensor.parts) if packed is not None]
    if len(weights) < len(tensor.parts):
        return False
    network.set_submodule(name.removesuffix(".weight"), QuantizedExpertLinear(weights))
    return True


def _packed(tensor: StoredTensor) -> QuantizedTensor | None:
    """None where the format has no kernels; what else is wrong with it shows when it is read plainly."""
    assert tensor.quantized is not None
    try:
        return tensor.quantized()
    except ValueError:
        return None
