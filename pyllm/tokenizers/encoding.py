"""What a model is given of a text or of a pair: ids with their offsets, masks and types; cut to a length and padded.

text -> Encoding -> truncated (the rest in `overflowing`) -> put into the post-processor's template -> padded
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, Literal

import numpy as np

Side = Literal["right", "left"]
Strategy = Literal["longest_first", "only_first", "only_second"]
NONE = -1  # in word_ids and sequence_ids


@dataclass(frozen=True, eq=False)
class Encoding:
    """The ids of a text or of a pair of texts, and for each id the following, as in Hugging Face's tokenizers.

    ids: (n,) uint32.
    offsets: (n, 2) int64, begin and end in the text that the id is of; (0, 0) for ids that were put around it.
    type_ids: (n,) uint8, the segment.
    attention_mask: (n,) uint8, 0 for padding.
    special_tokens_mask: (n,) uint8, 1 for ids that were put around the texts, and padding.
    word_ids: (n,) int32, which piece of its text the id is of; -1 for ids that are of none.
    sequence_ids: (n,) int32, 0 for the first text, 1 for the second; -1 for ids that are of none.
    overflowing: what did not fit, window by window.
    """

    ids: np.ndarray
    offsets: np.ndarray
    type_ids: np.ndarray
    attention_mask: np.ndarray
    special_tokens_mask: np.ndarray
    word_ids: np.ndarray
    sequence_ids: np.ndarray
    overflowing: tuple[Encoding, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Encoding:
        """The ids of the part; nothing overflows from it."""
        columns: Any = [getattr(self, name)[part] for name in _COLUMNS]
        return Encoding(*columns)


_COLUMNS = [field.name for field in fields(Encoding) if field.name != "overflowing"]


def of_text(ids: np.ndarray, offsets: np.ndarray, pieces: np.ndarray, sequence: int) -> Encoding:
    """The encoding of the first (0) or second (1) text, with nothing around it."""
    n = len(ids)
    return Encoding(
        ids=ids,
        offsets=offsets,
        type_ids=np.full(n, sequence, np.uint8),
        attention_mask=np.ones(n, np.uint8),
        special_tokens_mask=np.zeros(n, np.uint8),
        word_ids=pieces.astype(np.int32),
        sequence_ids=np.full(n, sequence, np.int32),
    )


def of_special(ids: Sequence[int], type_id: int, *, attention: int = 1) -> Encoding:
    """Ids that stand for no text."""
    n = len(ids)
    return Encoding(
        ids=np.array(ids, np.uint32),
        offsets=np.zeros((n, 2), np.int64),
        type_ids=np.full(n, type_id, np.uint8),
        attention_mask=np.full(n, attention, np.uint8),
        special_tokens_mask=np.ones(n, np.uint8),
        word_ids=np.full(n, NONE, np.int32),
        sequence_ids=np.full(n, NONE, np.int32),
    )


def concatenate(parts: Sequence[Encoding]) -> Encoding:
    """One after the other; of what overflows, every window of a part with those of the others."""
    whole, overflowing = parts[0][:], parts[0].overflowing
    for part in parts[1:]:
        windows = (part[:], *part.overflowing)
        overflowing = (
            *(_joined(rest, window) for rest in overflowing for window in windows),
            *(_joined(whole, window) for window in part.overflowing),
        )
        whole = _joined(whole, part)
    return replace(whole, overflowing=overflowing)


def _joined(left: Encoding, right: Encoding) -> Encoding:
    columns: Any = [np.concatenate([getattr(left, name), getattr(right, name)]) for name in _COLUMNS]
    return Encoding(*columns)


def truncate(encoding: Encoding, length: int, side: Side = "right", stride: int = 0) -> Encoding:
    """At most `length` ids of one text, from its start (side "right") or its end; the rest overflows.

    Windows share `stride` ids with the one before. Raises ValueError if that is not less than `length`.
    """
    n = len(encoding)
    if length >= n:
        return encoding
    if length == 0:
        return replace(encoding[:0], overflowing=(encoding,))
    if stride >= length:
        raise ValueError(
            f"stride: expected less than the {length} ids that are left for the text, got {stride}"
        )
    count = -(-(n - length) // (length - stride)) + 1
    starts = [i * (length - stride) for i in range(count)]
    if side == "right":
        spans = [slice(start, min(start + length, n)) for start in starts]
    else:
        spans = [slice(max(n - start - length, 0), n - start) for start in starts]
    first, *others = (encoding[span] for span in spans)
    return replace(first, overflowing=tuple(others))


def truncate_pair(
    parts: Sequence[Encoding], max_length: int, strategy: Strategy, side: Side, stride: int
) -> list[Encoding]:
    """One or two texts cut to `max_length` ids together, as the strategy says.

    Raises ValueError if the strategy cannot do it: no second text, or more to take away than the text has.
    """
    lengths = [len(part) for part in parts]
    if sum(lengths) <= max_length:
        return list(parts)
    if strategy == "longest_first" or max_length == 0:
        wanted = _longest_first(lengths, max_length)
    else:
        at = 0 if strategy == "only_first" else 1
        if at >= len(parts):
            raise ValueError("truncation: only_second needs a second text")
        wanted = list(lengths)
        wanted[at] -= sum(lengths) - max_length
        if wanted[at] <= 0:
            raise ValueError(f"max_length: {strategy} cannot shorten a text of {lengths[at]} ids that much")
    return [truncate(part, length, side, stride) for part, length in zip(parts, wanted, strict=True)]


def _longest_first(lengths: Sequence[int], max_length: int) -> list[int]:
    """The longer text gives way until both are as long; an odd id goes to the longer one."""
    if len(lengths) == 1:
        return [max_length]
    short, long = sorted(lengths)
    long = short if short > max_length else max(short, max_length - short)
    if short + long > max_length:
        short, long = max_length // 2, max_length - max_length // 2
    return [short, long] if lengths[0] <= lengths[1] else [long, short]


def pad(encoding: Encoding, length: int, pad_id: int, type_id: int = 0, side: Side = "right") -> Encoding:
    """At least `length` ids, and so for each window of what overflows."""
    missing = length - len(encoding)
    overflowing = tuple(pad(window, length, pad_id, type_id, side) for window in encoding.overflowing)
    if missing <= 0:
        return replace(encoding, overflowing=overflowing)
    padding = of_special([pad_id] * missing, type_id, attention=0)
    parts = (encoding[:], padding) if side == "right" else (padding, encoding[:])
    return replace(_joined(*parts), overflowing=overflowing)


def padded_length(encodings: Sequence[Encoding], length: int | None, multiple: int | None) -> int:
    """`length`, or that of the longest with what overflows, up to a multiple."""
    if length is None:
        windows = chain.from_iterable((encoding, *encoding.overflowing) for encoding in encodings)
        length = max((len(window) for window in windows), default=0)
    return -(-length // multiple) * multiple if multiple else length
