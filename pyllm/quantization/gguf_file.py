"""GGUF files with their matrices in a chosen type: from another GGUF file, or from a network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyllm.checkpoints.dequantize import DTYPES, dequantize
from pyllm.checkpoints.gguf import GGUFFile, TensorInfo, read_gguf
from pyllm.checkpoints.gguf_save import gguf_metadata, gguf_values
from pyllm.checkpoints.gguf_write import TensorToWrite, write_gguf
from pyllm.models.transformer import Transformer
from pyllm.quantization.gguf_blocks import BLOCKS, GGUF_FORMATS, quantize_gguf
from pyllm.tokenizers import Tokenizer

OnTensor = Callable[[str, int, int], object]

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
    on_tensor: OnTensor | None = None,
) -> dict[str, int]:
    """Writes `source` again with its matrices in `format`; tokenizer, chat template and configuration are kept.

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
    name = _checked(format)
    file = read_gguf(source)
    tensors = []
    for info in file.tensors.values():
        kind = info.type.name if len(info.shape) < 2 else _type_of(info.name, info.shape, name)
        tensors.append(TensorToWrite(info.name, info.shape, kind, _stored_reader(file, info, kind)))
    return _write(target, file.metadata, tensors, name, on_tensor)


def save_gguf(
    network: Transformer,
    target: str | os.PathLike[str],
    format: str = "f32",
    *,
    tokenizer: Tokenizer | None = None,
    on_tensor: OnTensor | None = None,
) -> dict[str, int]:
    """Writes a network, and its tokenizer if it has one, as a GGUF file, which llama.cpp and `pyllm.load` read.

    Types are chosen as in `quantize_gguf_file`; vectors are F32. Arguments and result as there.

    Raises:
        ValueError: an unknown format, or a network or tokenizer that GGUF files cannot express; nothing is written.
    """
    name, config = _checked(format), network.config
    keys: dict[str, Any] = {}
    if tokenizer is not None:
        keys = tokenizer.gguf_metadata(config.vocab_size)
        ends = (*config.eos_token_ids, *[t for t in (tokenizer.eos_token_id,) if t is not None])
        config = replace(config, eos_token_ids=tuple(dict.fromkeys(ends)))
    metadata = keys | gguf_metadata(config, Path(target).stem)
    tensors = []
    for values in gguf_values(network):
        kind = "F32" if len(values.shape) < 2 else _type_of(values.name, values.shape, name)
        tensors.append(TensorToWrite(values.name, values.shape, kind, _encoder(values.read, kind)))
    return _write(target, metadata, tensors, name, on_tensor)


def _checked(format: str) -> str:
    name = format.upper()
    if name not in (*GGUF_FORMATS, *_PLAIN):
        raise ValueError(f"format must be one of {', '.join((*_PLAIN, *GGUF_FORMATS))}, got {format!r}")
    return name


def _write(
    target: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorToWrite],
    format: str,
    on_tensor: OnTensor | None,
) -> dict[str, int]:
    marked = dict(metadata) | {
        "general.file_type": _FILE_TYPES[format],
        "general.quantization_version": 2,
    }
    observed = [
        replace(tensor, read=_announced(tensor, number, len(tensors), on_tensor))
        for number, tensor in enumerate(tensors, start=1)
    ]
    write_gguf(target, marked, observed)
    return dict(Counter(tensor.type for tensor in tensors))


def _announced(
    tensor: TensorToWrite, number: int, total: int, on_tensor: OnTensor | None
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        data = tensor.read()
        if on_tensor is not None:
            on_tensor(tensor.name, number, total)
        return data

    return read


def _type_of(name: str, shape: tuple[int, ...], wanted: str) -> str:
    if name in _EMBEDDING_OR_HEAD and wanted in GGUF_FORMATS:
        wanted = "Q8_0"
    if wanted in BLOCKS and shape[-1] % BLOCKS[wanted].elements:
        wanted = _FALLBACKS.get(wanted, "F16")
    return wanted if not shape[-1] % BLOCKS[wanted].elements else "F16"


def _stored_reader(file: GGUFFile, info: TensorInfo, kind: str) -> Callable[[], np.ndarray]:
    if kind == info.type.name:
        return lambda: file.tensor_bytes(info.name)
    return _encoder(lambda: dequantize(file.tensor_bytes(info.name), info, torch.float32), kind)


def _encoder(values: Callable[[], Tensor], kind: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        if kind in DTYPES:
            return values().to(DTYPES[kind]).contiguous().view(torch.uint8).numpy()
        return quantize_gguf(values().flatten(0, -2), kind).numpy()

    return read
