"""GGUF files as lists of keys and tensors, to damage one of them and keep the rest of the file sound."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace
from typing import Any

from tests.checkpoints.gguf_bytes import ARRAY, STRING, U32, U64, array, key, string, tensor

BOOL, F32, I32 = 7, 6, 5
_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "B",
    U64: "Q",
    11: "q",
    12: "d",
}
_EDGES = (
    0,
    1,
    2,
    3,
    31,
    32,
    255,
    1 << 16,
    1 << 22,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


@dataclass(frozen=True)
class Key:
    """values: one for a scalar; strings as bytes."""

    name: bytes
    kind: int
    values: tuple[Any, ...]
    is_array: bool = False
    length: int | None = None  # what the file claims of an array


@dataclass(frozen=True)
class Stored:
    """A tensor, dimensions fastest first, and its bytes."""

    name: bytes
    dimensions: tuple[int, ...]
    kind: int
    data: bytes
    offset: int | None = None  # what the file claims


@dataclass(frozen=True)
class Parts:
    keys: tuple[Key, ...]
    tensors: tuple[Stored, ...] = ()
    alignment: int = 32

    def blob(self) -> bytes:
        """The file."""
        infos, data = b"", b""
        for stored in self.tensors:
            offset = len(data) if stored.offset is None else stored.offset
            infos += tensor(stored.name, list(stored.dimensions), stored.kind, offset)
            data += stored.data + b"\0" * (-len(stored.data) % self.alignment)
        head = b"GGUF" + struct.pack("<Iqq", 3, len(self.tensors), len(self.keys))
        head += b"".join(map(_key_bytes, self.keys)) + infos
        return head + b"\0" * (-len(head) % self.alignment) + data


def _key_bytes(entry: Key) -> bytes:
    values = b"".join(_value_bytes(entry.kind, value) for value in entry.values)
    if not entry.is_array:
        return key(entry.name, entry.kind, values)
    return array(entry.name, entry.kind, len(entry.values) if entry.length is None else entry.length, values)


def _value_bytes(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return string(value if isinstance(value, bytes) else b"x")
    layout = _FORMATS.get(kind)
    if layout is None or isinstance(value, bytes):
        return b"\0" * 4
    if layout in "fd":
        return struct.pack(f"<{layout}", float(value))
    size = struct.calcsize(layout)
    return (int(value) % (1 << 8 * size)).to_bytes(size, "little")


def mutate_parts(rng: random.Random, parts: Parts) -> Parts:
    """One to three of the keys or tensors lost, doubled, exchanged, or with other types, sizes or values."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if parts.tensors and rng.random() < 0.5:
            tensors = list(parts.tensors)
            _mutate_list(rng, tensors, _mutated_tensor)
            parts = replace(parts, tensors=tuple(tensors))
        elif parts.keys:
            keys = list(parts.keys)
            _mutate_list(rng, keys, _mutated_key)
            parts = replace(parts, keys=tuple(keys))
    return parts


def _mutate_list(rng: random.Random, items: list[Any], mutated: Any) -> None:
    at = rng.randrange(len(items))
    match rng.randrange(10):
        case 0:
            del items[at]
        case 1:
            items.insert(rng.randrange(len(items)), items[at])
        case 2:
            items[at] = replace(items[at], name=rng.choice(items).name)
        case _:
            items[at] = mutated(rng, items[at])


def _mutated_key(rng: random.Random, entry: Key) -> Key:
    values = list(entry.values)
    match rng.randrange(7):
        case 0:
            return replace(entry, kind=rng.choice((*_FORMATS, STRING, ARRAY, 13, -1)))
        case 1:
            return replace(entry, is_array=not entry.is_array)
        case 2:
            return replace(entry, length=rng.choice(_EDGES) % (1 << 64))
        case 3 if values:
            del values[rng.randrange(len(values)) :]
        case 4 if values:
            values[rng.randrange(len(values))] = rng.choice(
                (0, 1, 2, 3, 5, 6, 1 << 31, -1, b"", b"\xff", b"a b", b"{{")
            )
        case 5 if values:
            values = values * rng.choice((2, 3))
        case _ if values:
            at, other = rng.randrange(len(values)), rng.randrange(len(values))
            values[at], values[other] = values[other], values[at]
        case _:
            pass
    return replace(entry, values=tuple(values))


def _mutated_tensor(rng: random.Random, stored: Stored) -> Stored:
    dimensions = list(stored.dimensions)
    match rng.randrange(6):
        case 0:
            return replace(
                stored, kind=rng.choice((0, 1, 2, 3, 4, 6, 7, 8, 10, 12, 13, 14, 20, 24, 28, 30, 39, 99))
            )
        case 1:
            return replace(stored, offset=rng.choice(_EDGES))
        case 2 if dimensions:
            dimensions[rng.randrange(len(dimensions))] = rng.choice(_EDGES)
        case 3:
            dimensions.append(rng.choice((0, 1, 2, 1 << 33)))
        case 4:
            dimensions.reverse()
        case _:
            return replace(stored, data=stored.data[: rng.randrange(len(stored.data) + 1)])
    return replace(stored, dimensions=tuple(dimensions))
