"""Builds GGUF files byte by byte, right or wrong on purpose (the gguf package writes only right ones)."""

from __future__ import annotations

import struct
from pathlib import Path

U32, STRING, ARRAY, U64 = 4, 8, 9, 10


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<i", kind) + value


def array(name: bytes, kind: int, length: int, values: bytes) -> bytes:
    return key(name, ARRAY, struct.pack("<iQ", kind, length) + values)


def tensor(
    name: bytes, dimensions: list[int], kind: int = 0, offset: int = 0, rank: int | None = None
) -> bytes:
    """Tensor info; `dimensions` fastest first, as in the file."""
    rank = len(dimensions) if rank is None else rank
    return (
        string(name)
        + struct.pack("<I", rank)
        + struct.pack(f"<{len(dimensions)}Q", *dimensions)
        + struct.pack("<iQ", kind, offset)
    )


def write(
    folder: Path,
    *parts: bytes,
    tensors: int = 0,
    keys: int = 0,
    version: int = 3,
    magic: bytes = b"GGUF",
    data: int = 0,
    alignment: int = 32,
) -> Path:
    """Header with the claimed counts, then `parts`, padding, and `data` zero bytes."""
    blob = magic + struct.pack("<Iqq", version, tensors, keys) + b"".join(parts)
    blob += b"\0" * (-len(blob) % alignment) + b"\0" * data
    path = folder / "made.gguf"
    path.write_bytes(blob)
    return path
