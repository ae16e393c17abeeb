"""Memory that packed weights share."""

from __future__ import annotations

import copy
import gc
import io
import mmap
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pyllm.ops import packed_memory
from pyllm.ops.packed_memory import SLAB_BYTES, zeroed_bytes


@pytest.mark.parametrize("count", [0, 1, 63, 64, 4097, SLAB_BYTES, SLAB_BYTES + 1])
def test_zeros_on_a_cache_line(count: int) -> None:
    data = zeroed_bytes(count)
    assert data.shape == (count,)
    assert data.dtype == torch.uint8
    assert not data.any()
    assert data.data_ptr() % 64 == 0
    data.fill_(7)
    assert not zeroed_bytes(count).any()


def test_weights_do_not_overlap_whatever_the_threads() -> None:
    sizes = [1 + 977 * i % 5000 for i in range(400)]
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(zeroed_bytes, sizes))
    for i, piece in enumerate(pieces):
        piece.fill_(i % 251)
    assert all(bool((piece == i % 251).all()) for i, piece in enumerate(pieces))


def test_a_copy_holds_its_own_bytes_only() -> None:
    data = zeroed_bytes(100)
    file = io.BytesIO()
    torch.save(data, file)
    assert file.getbuffer().nbytes < 10_000
    clone = copy.deepcopy(data)
    clone.fill_(1)
    assert not data.any()


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="needs Linux")
def test_a_slab_goes_with_its_last_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_memory, "_slab", None)
    first, second = zeroed_bytes(100), zeroed_bytes(100)
    slab: weakref.ref[mmap.mmap] | None = packed_memory._slab
    assert slab is not None
    assert second.data_ptr() - first.data_ptr() == 128
    del first
    gc.collect()
    assert slab() is not None
    del second
    gc.collect()
    assert slab() is None
