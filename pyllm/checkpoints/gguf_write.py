"""Writer of GGUF files, version 3, little endian: metadata first, then tensors one at a time."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pyllm.checkpoints.atomic import atomic_path
from pyllm.checkpoints.gguf import BLOCK_TYPES, DEFAULT_ALIGNMENT, MAGIC

_TYPE_IDS = {block.name: number for number, block in BLOCK_TYPES.items()}
_SCALARS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "u8": 10, "i8": 11, "f8": 12}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor of a file in the making.

    Attributes:
        shape: slowest dimension first, as in torch.
        type: GGUF's name, "F32" or "Q4_K" for example.
        read: its bytes, when their turn comes: uint8.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        block = next(block for block in BLOCK_TYPES.values() if block.name == self.type)
        return int(np.prod(self.shape)) // block.elements * block.bytes


def write_gguf(
    path: str | os.PathLike[str], metadata: Mapping[str, Any], tensors: Sequence[TensorToWrite]
) -> None:
    """Writes a file whole beside its place, then renames it.

    Args:
        metadata: key -> bool, int (32 bits where they suffice), float (32 bits), str, list of str, or a numpy array of
            numbers or booleans.

    Raises:
        ValueError: a tensor has other bytes than its shape and type say. TypeError: a value of another kind.
    """
    kept = {key: value for key, value in metadata.items() if key != "general.alignment"}
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(MAGIC + struct.pack("<Iqq", 3, len(tensors), len(kept)))
        for key, value in kept.items():
            file.write(_string(key) + _value(key, value))
        offset = 0
        for tensor in tensors:
            dimensions = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
            file.write(_string(tensor.name) + struct.pack("<I", len(tensor.shape)) + dimensions)
            file.write(struct.pack("<iQ", _TYPE_IDS[tensor.type], offset))
            offset += _padded(tensor.nbytes)
        for tensor in tensors:
            _pad(file)
            data = np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8)
            if data.nbytes != tensor.nbytes:
                raise ValueError(f"tensor {tensor.name!r} has {data.nbytes} bytes, expected {tensor.nbytes}")
            file.write(data.data)
        _pad(file)


def _padded(size: int) -> int:
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(key: str, value: Any) -> bytes:
    if isinstance(value, list):
        return struct.pack("<iiQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    if isinstance(value, np.ndarray):
        is_bool = value.dtype == np.bool_
        kind = _BOOL if is_bool else _SCALARS[value.dtype.str[1:]]
        plain = value.astype(np.uint8) if is_bool else value.astype(value.dtype.newbyteorder("<"))
        return struct.pack("<iiQ", _ARRAY, kind, value.size) + plain.tobytes()
    if isinstance(value, bool):
        return struct.pack("<iB", _BOOL, value)
    if isinstance(value, str):
        return struct.pack("<i", _STRING) + _string(value)
    if isinstance(value, float):
        return struct.pack("<if", _SCALARS["f4"], value)
    if isinstance(value, int):
        return _integer(value)
    raise TypeError(f"metadata {key!r} must be a number, text, or a list or array of them, got {value!r}")


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 32:
        return struct.pack("<iI", _SCALARS["u4"], value)
    if -(1 << 31) <= value < 0:
        return struct.pack("<ii", _SCALARS["i4"], value)
    return struct.pack("<iq", _SCALARS["i8"], value)
