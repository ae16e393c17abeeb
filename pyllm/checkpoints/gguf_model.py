"""Decoders stored as GGUF: tensors under the names and in the layouts of our state dict."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pyllm.checkpoints.dequantize import DTYPES, check_supported, dequantize
from pyllm.checkpoints.gguf import GGUFError, GGUFFile, TensorInfo
from pyllm.checkpoints.gguf_names import (
    ROPE_FACTORS,
    ROPE_LONG,
    ROPE_SHORT,
    fused_parts,
    state_dict_name,
)
from pyllm.checkpoints.stored import StoredTensor, stacked
from pyllm.models.config import ModelConfig
from pyllm.ops import QuantizedTensor


def model_tensors(file: GGUFFile, config: ModelConfig) -> dict[str, StoredTensor]:
    """The file's tensors under state-dict names, dequantized when read; RoPE factors are left out.

    Raises:
        GGUFError: a tensor that holds several has other rows than the configuration says, or a type is not supported.
    """
    result: dict[str, StoredTensor] = {}
    for info in file.tensors.values():
        if info.name in (ROPE_FACTORS, ROPE_LONG, ROPE_SHORT):
            continue
        if parts := fused_parts(info.name, config):
            if not info.shape or sum(rows for _, rows in parts) != info.shape[0]:
                raise GGUFError(
                    f"{file.path}: tensor {info.name!r} has shape {info.shape}, the configuration says "
                    f"{sum(rows for _, rows in parts)} rows"
                )
            first = 0
            for name, rows in parts:
                result[name] = _stored(file, info, config, first, (rows, *info.shape[1:]))
                first += rows
            continue
        name = state_dict_name(info.name, config.sandwich_norms)
        shape = info.shape
        if name.endswith("shared_expert_gate.weight") and len(shape) == 1:
            shape = (1, *shape)  # one row, stored as a vector
        if len(shape) == 3:
            experts = [_stored(file, info, config, e * shape[1], shape[1:]) for e in range(shape[0])]
            result[name] = stacked(experts) if experts else _stored(file, info, config, 0, shape)
        else:
            result[name] = _stored(file, info, config, 0, shape)
    return result


def _stored(
    file: GGUFFile, info: TensorInfo, config: ModelConfig, first: int, shape: tuple[int, ...]
) -> StoredTensor:
    """The part of a tensor that begins at row `first` and has `shape`: blocks never span rows."""
    row_bytes = info.nbytes * math.prod(shape[1:]) // max(1, math.prod(info.shape))
    nbytes = shape[0] * row_bytes if shape else info.nbytes
    info = replace(info, shape=shape, nbytes=nbytes)
    try:
        check_supported(info)
    except GGUFError as error:
        raise GGUFError(f"{file.path}: {error}") from None

    def data_in_order() -> np.ndarray:
        data = file.tensor_bytes(info.name)[first * row_bytes :][:nbytes]
        heads = permuted_heads(info.name, config)
        return _unpermute(data, info, heads) if heads else data

    def read(dtype: torch.dtype) -> Tensor:
        data = data_in_order()
        if config.norm_weight_offset and info.name.endswith("norm.weight"):
            # The file holds what norms multiply by, the network what is added to the offset.
            return (dequantize(data, info, torch.float32) - config.norm_weight_offset).to(dtype)
        return dequantize(data, info, dtype)

    def quantized() -> QuantizedTensor:
        raw, size = torch.from_numpy(data_in_order()), (info.shape[0], info.shape[1])

        def release(done: int) -> None:
            file.release(info.name, first * row_bytes + done)

        return QuantizedTensor.from_blocks(info.type.name, raw, size, on_bytes=release)

    def rows() -> Tensor:
        return torch.from_numpy(data_in_order().reshape(info.shape[0], -1))

    if info.type.name in DTYPES or len(info.shape) != 2:
        return StoredTensor(info.shape, DTYPES.get(info.type.name), info.nbytes, read)
    return StoredTensor(info.shape, None, info.nbytes, read, quantized, (info.type.name, rows))


def permuted_heads(name: str, config: ModelConfig) -> int:
    """Heads whose rows are stored in interleaved rotary order: llama's query and key projections."""
    if config.model_type not in ("llama", "mixtral"):
        return 0
    if re.fullmatch(r"blk\.\d+\.attn_q\.(weight|bias)", name):
        return config.num_attention_heads
    return config.num_key_value_heads if re.fullmatch(r"blk\.\d+\.attn_k\.(weight|bias)", name) else 0


def _unpermute(data: np.ndarray, info: TensorInfo, heads: int) -> np.ndarray:
    """Rows (pair, half) of each head back to (half, pair), on the stored bytes: blocks never span rows."""
    pairs = info.shape[0] // heads // 2
    return np.ascontiguousarray(data.reshape(heads, pairs, 2, -1).swapaxes(1, 2)).reshape(-1)
