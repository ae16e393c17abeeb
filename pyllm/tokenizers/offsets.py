"""Offsets: bytes as characters, and without the whitespace at the ends of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def in_characters(offsets: np.ndarray, text: Any) -> np.ndarray:
    """Byte offsets (n, 2) as character offsets; a part of a character counts as all of it."""
    if isinstance(text, str):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    starts = (np.frombuffer(bytes(text), np.uint8) & 0xC0) != 0x80
    before = np.concatenate([[0], np.cumsum(starts)])  # characters that start before each byte
    begin = before[np.minimum(offsets[:, 0] + 1, len(starts))] - (offsets[:, 0] < len(starts))
    return np.stack([begin, before[offsets[:, 1]]], axis=1).astype(np.int64)


def character_starts(parts: Iterable[bytes]) -> list[int]:
    """For each part of a UTF-8 text the index of the first character that has bytes of it."""
    offsets, length = [], 0
    for part in parts:
        continues = bool(part) and 0x80 <= part[0] < 0xC0
        offsets.append(max(0, length - continues))
        length += sum(not 0x80 <= byte < 0xC0 for byte in part)
    return offsets


def whitespace_at_ends(ids: np.ndarray, spellings: Mapping[int, str]) -> np.ndarray:
    """(n, 2): how many characters of whitespace each token begins and ends with."""
    kinds, where = np.unique(ids, return_inverse=True)
    counts = [_at_ends(spellings.get(int(token), "")) for token in kinds]
    return np.array(counts, np.int64).reshape(-1, 2)[where]


def _at_ends(spelling: str) -> tuple[int, int]:
    # A byte-level vocabulary spells the space U+0120. Python counts four separators as space that Unicode does not.
    spaces = [c == "\u0120" or (c.isspace() and not "\x1c" <= c <= "\x1f") for c in spelling]
    leading = spaces.index(False) if False in spaces else len(spaces)
    trailing = spaces[::-1].index(False) if False in spaces else len(spaces)
    return leading, trailing


def trim(offsets: np.ndarray, spaces: Any, prefix_space: bool) -> np.ndarray:
    """The offsets (n, 2) without that many characters of whitespace (n, 2).

    Where a space was put in front (`prefix_space`), the one space of a first token is that and has no place to lose.
    """
    begin, end = offsets[:, 0], offsets[:, 1]
    leading, trailing = spaces[:, 0].copy(), spaces[:, 1]
    if prefix_space:
        first = (np.arange(len(begin)) == 0) | (begin == 0)
        leading[first & (leading == 1)] = 0
    begin = np.minimum(begin + leading, end)
    return np.stack([begin, np.where(end >= trailing, np.maximum(end - trailing, begin), end)], axis=1)
