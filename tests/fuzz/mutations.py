"""Damage: to bytes, to lines, to JSON documents."""

from __future__ import annotations

import copy
import random
from typing import Any

_NUMBERS = (
    *(0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, (1 << 22) - 1, 1 << 22),
    *(
        (1 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        1 << 53,
        (1 << 63) - 1,
        1 << 63,
        (1 << 64) - 1,
        1 << 70,
    ),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "a", "\x00", "\ud800", "▁", "Ġ", "<0x00>", "##", "BPE", "x" * 1000, "(" * 100),
    *(0.5, -1e308, 1e308, float("nan"), float("inf"), [], {}, [[]], [None], {"type": "Sequence"}, {"": ""}),
)


def mutate_bytes(rng: random.Random, blob: bytes, first: int = 0) -> bytes:
    """`blob` with one to four wounds at `first` or later, most of them near the front."""
    data = bytearray(blob)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if len(data) <= first:
            break
        end = len(data) if rng.random() < 0.5 else min(len(data), first + 400)
        at = rng.randrange(first, end)
        match rng.randrange(7):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                size = rng.choice((1, 2, 4, 8))
                data[at : at + size] = (rng.choice(_NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")
            case 2:
                del data[at : at + rng.randrange(1, 16)]
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 16))
            case 4:
                data[at:at] = data[at : at + rng.randrange(1, 64)] * rng.choice((1, 1, 2, 50))
            case 5:
                other = rng.randrange(len(data))
                size = rng.randrange(1, 32)
                data[at : at + size] = data[other : other + size]
            case _:
                del data[at:]
    return bytes(data)


def mutate_lines(rng: random.Random, blob: bytes) -> bytes:
    """Lines lost, doubled, swapped, joined, or bytes damaged."""
    lines = blob.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[at]
                lines = lines or [b""]
            case 1:
                lines.insert(at, lines[min(other, len(lines) - 1)])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines[at] += rng.choice((b" ", b"\t", b"\r", b"\xe2\x80\xa8", b"\0", b" ")) + lines[other]
            case 4:
                lines[at] = rng.choice(
                    (b"", b" ", b"a", b"\xff", b"#version", str(rng.choice(_NUMBERS)).encode())
                )
            case _:
                lines[at] = mutate_bytes(rng, lines[at])
    return b"\n".join(lines)


def mutate_json(rng: random.Random, document: Any, times: int | None = None) -> Any:
    """A copy of the document with a few of its values replaced, lost, doubled or moved."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 4)) if times is None else times):
        places = list(_places(document, rng))
        if not places:
            break
        container, key = rng.choice(places)
        _wound(rng, container, key, places)
    return document


def _places(value: Any, rng: random.Random) -> list[tuple[Any, Any]]:
    """(container, key) of values in the document; of long lists and dicts only some, so that small parts are hit."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        part = waiting.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        if len(keys) > 20:
            keys = rng.sample(list(keys), 6)
        for key in keys:
            found.append((part, key))
            waiting.append(part[key])
    return found


def _wound(rng: random.Random, container: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    value = container[key]
    match rng.randrange(9):
        case 0:
            del container[key]
        case 1:
            container[key] = copy.deepcopy(rng.choice(_VALUES))
        case 2:
            container[key] = rng.choice(_NUMBERS)
        case 3:
            other, other_key = rng.choice(places)
            with_other = isinstance(other, dict) and other_key in other
            with_other = with_other or (isinstance(other, list) and other_key < len(other))
            container[key] = copy.deepcopy(other[other_key]) if with_other else None
        case 4 if isinstance(value, str) and value:
            at = rng.randrange(len(value))
            container[key] = (
                value[:at] + rng.choice(("", "a", "\0", "Ġ", "▁", "(", "\ud83d")) + value[at + 1 :]
            )
        case 5 if isinstance(value, list):
            container[key] = (
                value * rng.choice((2, 3, 100)) if len(value) < 50 else value[: rng.randrange(50)]
            )
        case 6 if isinstance(container, dict):
            container[rng.choice(("type", "strange", "id", "", str(key) + "2"))] = copy.deepcopy(value)
        case 7:
            deep: Any = value
            for _ in range(rng.choice((1, 3, 100))):
                deep = rng.choice(
                    ([deep], {"type": "Sequence", rng.choice(("normalizers", "pretokenizers")): [deep]})
                )
            container[key] = deep
        case _ if isinstance(value, int):
            container[key] = value + rng.choice((-1, 1))
        case _:
            container[key] = [value]
