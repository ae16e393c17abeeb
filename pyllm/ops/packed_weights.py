"""Packed copies of weights that stand still, kept between calls of `pyllm.ops.linear`.

More than 16 rows multiply a weight that was cut into panels first. Where the weight wants no gradient and comes a
second time unchanged, the panels are kept; they die with the weight. Bits are the same with and without.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FEW_ROWS = 16  # up to which the kernels read the weight where it lies
DEFAULT_LIMIT = 2**30

_Key = tuple[int, int, torch.Size, tuple[int, ...]]


@dataclass
class _Entry:
    weight: weakref.ref[Tensor]
    key: _Key
    packed: Tensor | None = None
    tried: bool = False  # it has been packed, or there was no room; before that it was seen once


_entries: dict[tuple[int, bool], _Entry] = {}  # by id of the weight, and whether it is read transposed
_lock = threading.RLock()  # a weight may die, and its entry with it, while the lock is held
_limit = DEFAULT_LIMIT


def keep_packed_weights(limit_bytes: int = DEFAULT_LIMIT) -> None:
    """Sets how much memory packed copies of weights may take in all; 0 keeps none and frees those there are.

    Kept are float32 weights at the avx2 level and above (16-bit ones would double or more), from the second call with
    more than 16 rows in which the weight wants no gradient. A copy is made anew when the weight's address, shape or
    version changes. A change that has no version, through `weight.data` or another library's pointer, is noticed by 255
    elements spread over the weight: an edit that spares all of them, made through `weight.data`, is not.

    Raises:
        ValueError: limit_bytes is negative.
    """
    global _limit
    if limit_bytes < 0:
        raise ValueError(f"keep_packed_weights: limit_bytes must not be negative, got {limit_bytes}")
    with _lock:
        _limit = limit_bytes
        if packed_bytes() > limit_bytes:
            _entries.clear()


def packed_bytes() -> int:
    """Memory that packed copies of weights take now."""
    with _lock:
        return sum(entry.packed.nbytes for entry in _entries.values() if entry.packed is not None)


def packed_weight(x: Tensor, weight: Tensor, transposed: bool = False) -> Tensor | None:
    """The kept copy of weight (out, in) for products x @ weight.T, or x @ weight if transposed; None if there is none.

    Called where no gradient of the weight is wanted.
    """
    if weight.dtype is not torch.float32 or x.numel() <= FEW_ROWS * x.shape[-1] or not _limit:
        return None
    if type(weight) not in (Tensor, torch.nn.Parameter) or weight.is_inference() or not weight.is_cpu:
        return None
    place = (id(weight), transposed)
    key = (weight.data_ptr(), weight._version, weight.shape, weight.stride())
    entry = _entries.get(place)
    if entry is None or entry.key != key or entry.weight() is not weight:
        with _lock:
            _entries[place] = _Entry(weakref.ref(weight, _forget(place)), key)
        return None
    if not entry.tried:
        _pack(entry, weight.t() if transposed else weight)
    return entry.packed


def _pack(entry: _Entry, weight: Tensor) -> None:
    with _lock:
        # Panels are padded by less than 48 columns and 2% of the depth: room is asked for by the weight's own size.
        if not entry.tried and packed_bytes() + weight.nbytes <= _limit:
            packed = torch.ops.pyllm.linear_pack.default(weight.detach())
            entry.packed = packed if packed.numel() else None
        entry.tried = True


def _forget(place: tuple[int, bool]) -> Callable[[weakref.ref[Tensor]], None]:
    def forget(reference: weakref.ref[Tensor]) -> None:
        with _lock:
            entry = _entries.get(place)
            if entry is not None and entry.weight is reference:
                del _entries[place]

    return forget
