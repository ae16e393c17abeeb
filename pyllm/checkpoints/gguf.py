"""Reader of GGUF files (versions 2 and 3, little endian): metadata and mapped tensor bytes, without torch.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file is data from a stranger: every count
is bounded by the bytes that are left before anything is allocated, sizes are Python integers (which cannot
wrap) checked against 64 bits, and whatever is wrong ends in `GGUFError`.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyllm import _tokenizers

MAGIC = b"GGUF"
MAX_STRING_BYTES = 1 << 30
MAX_ARRAY_LENGTH = 1 << 30
MAX_KEY_BYTES = 65535
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_INT64 = (1 << 63) - 1
DEFAULT_ALIGNMENT = 32


class GGUFError(ValueError):
    """A GGUF file that is truncated, inconsistent, hostile or of a kind that is not read."""


class BlockType(NamedTuple):
    """One tensor type: `elements` values are stored in `bytes` bytes."""

    name: str
    elements: int
    bytes: int


BLOCK_TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    24: BlockType("I8", 1, 1),
    25: BlockType("I16", 1, 2),
    26: BlockType("I32", 1, 4),
    27: BlockType("I64", 1, 8),
    28: BlockType("F64", 1, 8),
    29: BlockType("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
    40: BlockType("NVFP4", 64, 36),
}

_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies.

    `shape` is in torch's order (slowest dimension first), `offset` in bytes from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: BlockType
    offset: int
    nbytes: int


class _Cursor:
    """A position in the mapped file; every read is checked against the bytes that are left."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size = len(data)
        self.position = 0

    def advance(self, count: int, what: str) -> int:
        start = self.position
        if count > self.size - start:
            raise GGUFError(
                f"{what} needs {count} bytes at offset {start}, the file has {self.size - start} left"
            )
        self.position = start + count
        return start

    def number(self, layout: struct.Struct, what: str) -> int:
        value: int = layout.unpack_from(self.data, self.advance(layout.size, what))[0]
        return value

    def string(self, what: str, limit: int = MAX_STRING_BYTES) -> str:
        return _strings(self.data, self.pass_strings(1, what, limit), 1, what)[0]

    def pass_strings(self, count: int, what: str, limit: int = MAX_STRING_BYTES) -> int:
        """Goes on to the end of `count` strings; where they begin."""
        begin = self.position
        passed, self.position = _tokenizers.pass_strings(self.data, begin, count, limit)
        if passed < count:
            length, left = self.number(_U64, what), self.size - self.position
            bounds = f"the limit is {limit}, the file has {left} left"
            raise GGUFError(f"{what} is {length} bytes long at offset {self.position}: {bounds}")
        return begin

    def count(self, what: str, smallest_item: int) -> int:
        """A signed 64-bit count of items of at least `smallest_item` bytes each."""
        count = self.number(_I64, what)
        left = self.size - self.position
        if count < 0 or count > left // smallest_item:
            raise GGUFError(f"{what} is {count}, but only {left} bytes are left")
        return count


def _strings(data: mmap.mmap, begin: int, count: int, what: str) -> list[str]:
    """Strings whose bounds are known to be sound."""
    try:
        texts: list[str] = _tokenizers.read_strings(data, begin, count)
    except UnicodeDecodeError as error:
        raise GGUFError(f"{what} at offset {begin} is not UTF-8: {error.reason}") from None
    return texts


class _StringArray(NamedTuple):
    begin: int
    length: int


class Metadata(Mapping[str, Any]):
    """Values by key. Arrays of strings are decoded whenever they are asked for: vocabularies are large, and needed
    once."""

    def __init__(self, data: mmap.mmap, values: Mapping[str, Any]) -> None:
        self._data, self._values = data, values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, _StringArray):
            return _strings(self._data, *value, f"element of {key!r}")
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class GGUFFile:
    """An open GGUF file.

    Attributes:
        version: 2 or 3.
        metadata: key -> int, float, bool, str, list of str, or numpy array (numeric and boolean arrays).
        tensors: name -> `TensorInfo`, in file order.
    """

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self._data = data
        cursor = _Cursor(data)
        self.version = _read_version(cursor)
        # Least bytes of a tensor: name length 8, rank 4, type 4, offset 8; of a key: length 8, type 4, value
        tensor_count = cursor.count("tensor count", 24)
        key_count = cursor.count("metadata count", 13)
        self.metadata = _read_metadata(cursor, key_count)
        self.alignment = _alignment(self.metadata)
        self.tensors = _read_tensors(cursor, tensor_count, self.alignment)

    def tensor_bytes(self, name: str) -> np.ndarray:
        """Stored bytes of a tensor: a uint8 view of the mapped file, shape (nbytes,). Writes never reach the file."""
        info = self.tensors[name]
        return np.frombuffer(self._data, dtype=np.uint8, count=info.nbytes, offset=info.offset)

    def release(self, name: str, nbytes: int) -> None:
        """Lets go of the memory that holds the pages of a tensor's first bytes; they are read again where needed."""
        info, page = self.tensors[name], mmap.PAGESIZE
        first = -(-info.offset // page) * page
        length = (info.offset + min(nbytes, info.nbytes) - first) // page * page
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED, first, length)


def read_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Open a GGUF file: metadata is parsed, tensor data stays mapped until it is asked for.

    Raises:
        GGUFError: the file is not GGUF, or is truncated, inconsistent or beyond the format's limits.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 4:
            raise GGUFError(f"{path}: not a GGUF file: {size} bytes long")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    try:
        return GGUFFile(path, data)
    except GGUFError as error:
        raise GGUFError(f"{path}: {error}") from None


def _read_version(cursor: _Cursor) -> int:
    magic = cursor.data[cursor.advance(4, "magic") : cursor.position]
    if magic != MAGIC:
        raise GGUFError(f"not a GGUF file: it starts with {magic!r}, expected {MAGIC!r}")
    version = cursor.number(_U32, "version")
    if version & 0xFFFF == 0:
        raise GGUFError(f"version reads as {version:#x}: a big-endian GGUF file; only little endian is read")
    if version not in (2, 3):
        raise GGUFError(f"GGUF version {version} is not read (2 and 3 are)")
    return version


def _read_metadata(cursor: _Cursor, count: int) -> Metadata:
    metadata: dict[str, Any] = {}
    for index in range(count):
        key = cursor.string(f"metadata key {index}", MAX_KEY_BYTES)
        if key in metadata:
            raise GGUFError(f"metadata key {key!r} appears twice")
        kind = cursor.number(_I32, f"type of {key!r}")
        if key == "general.alignment" and kind != _UINT32:
            raise GGUFError(f"general.alignment has value type {kind}, expected {_UINT32} (uint32)")
        metadata[key] = _read_array(cursor, key) if kind == _ARRAY else _read_scalar(cursor, kind, key)
    return Metadata(cursor.data, metadata)


def _read_scalar(cursor: _Cursor, kind: int, key: str) -> Any:
    if kind == _STRING:
        return cursor.string(f"value of {key!r}")
    if kind == _BOOL:
        return bool(_booleans(cursor, 1, key)[0])
    if kind not in _SCALARS:
        raise GGUFError(f"metadata key {key!r} has unknown value type {kind}")
    return _numbers(cursor, _SCALARS[kind], 1, key)[0].item()


def _read_array(cursor: _Cursor, key: str) -> _StringArray | np.ndarray:
    kind = cursor.number(_I32, f"element type of {key!r}")
    length = cursor.number(_U64, f"length of {key!r}")
    if length > MAX_ARRAY_LENGTH:
        raise GGUFError(f"array {key!r} has {length} elements, the limit is {MAX_ARRAY_LENGTH}")
    if kind == _STRING:
        if length > (cursor.size - cursor.position) // _U64.size:
            raise GGUFError(f"array {key!r} claims {length} strings, more than the rest of the file holds")
        return _StringArray(cursor.pass_strings(length, f"element of {key!r}"), length)
    if kind == _BOOL:
        return _booleans(cursor, length, key)
    if kind not in _SCALARS:
        raise GGUFError(f"array {key!r} has unsupported element type {kind}")
    return _numbers(cursor, _SCALARS[kind], length, key)


def _numbers(cursor: _Cursor, dtype: np.dtype[Any], count: int, key: str) -> np.ndarray:
    start = cursor.advance(dtype.itemsize * count, f"value of {key!r}")
    return np.frombuffer(cursor.data, dtype=dtype, count=count, offset=start)


def _booleans(cursor: _Cursor, count: int, key: str) -> np.ndarray:
    values = _numbers(cursor, np.dtype("u1"), count, key)
    if values.size and values.max() > 1:
        raise GGUFError(f"boolean {key!r} holds {int(values.max())}, expected 0 or 1")
    return values.astype(np.bool_)


def _alignment(metadata: Mapping[str, Any]) -> int:
    alignment: int = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if alignment <= 0 or alignment & (alignment - 1):
        raise GGUFError(f"general.alignment is {alignment}, expected a power of two")
    return alignment


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    relative: dict[str, TensorInfo] = {}
    for index in range(count):
        info = _read_tensor_info(cursor, index, alignment)
        if info.name in relative:
            raise GGUFError(f"tensor {info.name!r} appears twice")
        relative[info.name] = info
    data_start = -(-cursor.position // alignment) * alignment
    tensors = {name: _placed(info, data_start, cursor.size) for name, info in relative.items()}
    _check_disjoint(tensors)
    return tensors


def _read_tensor_info(cursor: _Cursor, index: int, alignment: int) -> TensorInfo:
    name = cursor.string(f"name of tensor {index}", MAX_NAME_BYTES)
    rank = cursor.number(_U32, f"dimension count of {name!r}")
    if rank > MAX_DIMENSIONS:
        raise GGUFError(f"tensor {name!r} has {rank} dimensions, the limit is {MAX_DIMENSIONS}")
    dimensions = [cursor.number(_U64, f"dimensions of {name!r}") for _ in range(rank)]
    kind = cursor.number(_I32, f"type of {name!r}")
    offset = cursor.number(_U64, f"offset of {name!r}")
    if kind not in BLOCK_TYPES:
        raise GGUFError(f"tensor {name!r} has unknown type {kind}")
    if offset % alignment:
        raise GGUFError(
            f"tensor {name!r} lies at offset {offset}, not a multiple of the alignment {alignment}"
        )
    nbytes = _byte_size(name, dimensions, BLOCK_TYPES[kind])
    return TensorInfo(name, tuple(reversed(dimensions)), BLOCK_TYPES[kind], offset, nbytes)


def _byte_size(name: str, dimensions: list[int], block: BlockType) -> int:
    row = dimensions[0] if dimensions else 1
    if row % block.elements:
        raise GGUFError(
            f"tensor {name!r}: rows of {row} values are not a multiple of {block.name}'s {block.elements}"
        )
    # Multiplied without zeros, so that a zero cannot hide a product that other readers would let wrap.
    if math.prod(d for d in dimensions if d) * max(block.bytes, 8) > MAX_INT64:
        raise GGUFError(f"tensor {name!r} has impossible dimensions {dimensions}")
    return math.prod(dimensions) // block.elements * block.bytes


def _placed(info: TensorInfo, data_start: int, file_size: int) -> TensorInfo:
    offset = data_start + info.offset
    if offset + info.nbytes > file_size:
        end = f"ends at byte {offset + info.nbytes}, the file at {file_size}"
        raise GGUFError(f"tensor {info.name!r} ({info.nbytes} bytes) {end}")
    return TensorInfo(info.name, info.shape, info.type, offset, info.nbytes)


def _check_disjoint(tensors: dict[str, TensorInfo]) -> None:
    end, previous = 0, ""
    for info in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if info.nbytes and info.offset < end:
            raise GGUFError(f"tensors {previous!r} and {info.name!r} overlap")
        end, previous = max(end, info.offset + info.nbytes), info.name
