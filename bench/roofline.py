"""What this machine can do at this moment, so that a row can say how much of it is used.

Both roofs are measured through torch with its current number of threads: memory bandwidth by copying 256 MB (its reads
and its writes counted), arithmetic by a large square matrix product, the best of several runs. The second is what the
best library reaches, not the silicon's limit: a row may pass 100 % of it, and one that lives in cache may pass 100 % of
memory bandwidth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_COPIED_BYTES = 256 << 20
_MATRIX = 1536
_RUNS = 5


@dataclass(frozen=True)
class Roofline:
    """bytes_per_second of a large copy; flops_per_second of a large matrix product, by dtype."""

    bytes_per_second: float
    flops_per_second: dict[torch.dtype, float]

    def seconds(self, moved_bytes: int, flops: int, dtype: torch.dtype) -> float:
        """Least time the work can take: limited by memory or by arithmetic, whichever is slower."""
        peak = self.flops_per_second.get(dtype, self.flops_per_second[torch.float32])
        return max(moved_bytes / self.bytes_per_second, flops / peak)


def measure_roofline() -> Roofline:
    """Measures both roofs; about a second."""
    dtypes = (torch.float32, torch.bfloat16)
    return Roofline(_copy_bandwidth(), {dtype: _matmul_rate(dtype) for dtype in dtypes})


def _copy_bandwidth() -> float:
    source = torch.ones(_COPIED_BYTES // 4)
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / _best_seconds(lambda: target.copy_(source))


def _matmul_rate(dtype: torch.dtype) -> float:
    a = torch.randn(_MATRIX, _MATRIX).to(dtype)
    out = torch.empty_like(a)
    return 2 * _MATRIX**3 / _best_seconds(lambda: torch.mm(a, a, out=out))


def _best_seconds(call: Callable[[], Any]) -> float:
    call()
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
