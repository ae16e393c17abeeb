"""A GGUF file with its matrices in another type: tokenizer, chat template and configuration are kept."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch

from pyllm.checkpoints.dequantize import DTYPES, dequantize
from pyllm.checkpoints.gguf import GGUFFile, TensorInfo, read_gguf
from pyllm.checkpoints.gguf_write import TensorToWrite, write_gguf
from pyllm.quantization.gguf_blocks import BLOCKS, GGUF_FORMATS, quantize_gguf

# Where rows are no multiple of 256: the type of 32 with as many bits or the next more, as ggml chooses.
_FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}
_PLAIN = {"F32": 0, "F16": 1, "BF16": 32}
# llama.cpp's numbers in general.file_type for "mostly this type".
_FILE_TYPES = _PLAIN | {
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q2_K": 10,
    "Q3_K": 12,
    "Q4_K": 15,
    "Q5_K": 17,
    "Q6_K": 18,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
    "MXFP4": 38,
}
_EMBEDDING_OR_HEAD = ("token_embd.weight", "output.weight")


def quantize_gguf_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format: str,
    *,
    on_tensor: Callable[[str, int, int], object] | None = None,
) -> dict[str, int]:
    """Writes `source` again with its matrices in `format`.

    Embedding and head become Q8_0 if the format is coarser; vectors (norms, biases) stay as they are. Rows that the
    format cannot hold take the type of 32 next to it. What was quantized before is dequantized first: the error of both
    roundings adds up.

    Args:
        format: "f32", "f16", "bf16" or a type of `pyllm.quantization.GGUF_FORMATS`, in any case.
        on_tensor: hears (name, number, number of tensors) after each.

    Returns:
        How many tensors have which type.

    Raises:
        ValueError: an unknown format, or a damaged file.
    """
    name = format.upper()
    if name not in (*GGUF_FORMATS, *_PLAIN):
        raise ValueError(f"format must be one of {', '.join((*_PLAIN, *GGUF_FORMATS))}, got {format!r}")
    file = read_gguf(source)
    tensors, counts = [], dict[str, int]()
    for number, info in enumerate(file.tensors.values(), start=1):
        kind = _type_of(info, name)
        counts[kind] = counts.get(kind, 0) + 1
        read = _reader(file, info, kind, on_tensor, number)
        tensors.append(TensorToWrite(info.name, info.shape, kind, read))
    metadata = file.metadata | {"general.file_type": _FILE_TYPES[name], "general.quantization_version": 2}
    write_gguf(target, metadata, tensors)
    return counts


def _type_of(info: TensorInfo, wanted: str) -> str:
    if len(info.shape) < 2:
        return info.type.name
    if info.name in _EMBEDDING_OR_HEAD and wanted in GGUF_FORMATS:
        wanted = "Q8_0"
    if wanted in BLOCKS and info.shape[-1] % BLOCKS[wanted].elements:
        wanted = _FALLBACKS.get(wanted, "F16")
    return wanted if not info.shape[-1] % BLOCKS[wanted].elements else "F16"


def _reader(
    file: GGUFFile,
    info: TensorInfo,
    kind: str,
    on_tensor: Callable[[str, int, int], object] | None,
    number: int,
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        data = file.tensor_bytes(info.name)
        if kind != info.type.name:
            values = dequantize(data, info, torch.float32)
            if kind in DTYPES:
                data = values.to(DTYPES[kind]).view(torch.uint8).numpy()
            else:
                data = quantize_gguf(values.flatten(0, -2), kind).numpy()
        if on_tensor is not None:
            on_tensor(info.name, number, len(file.tensors))
        return data

    return read
