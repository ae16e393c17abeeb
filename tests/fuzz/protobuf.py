"""Protobuf messages as lists of fields, to damage one field and keep the lengths around it right."""

from __future__ import annotations

import random
from typing import NamedTuple

from tests.fuzz.mutations import mutate_bytes


class Field(NamedTuple):
    """Wire type 0 has a number, 1 and 5 eight and four bytes, 2 any bytes."""

    number: int
    wire: int
    value: int | bytes


def varint(value: int) -> bytes:
    """At most ten bytes, seven bits each, the lowest first."""
    value &= (1 << 64) - 1
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def write_message(fields: list[Field]) -> bytes:
    parts = []
    for number, wire, value in fields:
        parts.append(varint(number << 3 | wire))
        if isinstance(value, int):
            parts.append(varint(value))
        else:
            parts.append((varint(len(value)) if wire == 2 else b"") + value)
    return b"".join(parts)


def read_message(blob: bytes) -> list[Field]:
    """The fields of a sound message."""
    fields, at = [], 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = blob[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(blob):
        key = number()
        value: int | bytes
        if key & 7 == 0:
            value = number()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or (number() if key & 7 == 2 else 0)
            value, at = blob[at : at + size], at + size
        fields.append(Field(key >> 3, key & 7, value))
    return fields


def mutate_message(rng: random.Random, fields: list[Field]) -> list[Field]:
    """Fields lost, doubled, swapped, renumbered, or with another value."""
    fields = list(fields)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not fields:
            break
        at = rng.randrange(len(fields))
        number, wire, value = fields[at]
        match rng.randrange(6):
            case 0:
                del fields[at]
            case 1:
                fields.insert(rng.randrange(len(fields)), fields[at])
            case 2:
                other = rng.randrange(len(fields))
                fields[at], fields[other] = fields[other], fields[at]
            case 3:
                fields[at] = Field(rng.choice((0, 1, 2, 3, 41, 44, 1 << 28)), wire, value)
            case 4:
                fields[at] = Field(number, 0, rng.choice((0, 1, 2, 3, 5, 7, 1 << 31, (1 << 64) - 1)))
            case _ if isinstance(value, bytes) and wire == 2:
                fields[at] = Field(number, wire, mutate_bytes(rng, value))
            case _:
                fields[at] = Field(
                    number, 5, rng.choice((b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\xff" * 4, b"\0" * 4))
                )
    return fields
