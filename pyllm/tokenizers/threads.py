"""How many threads to use."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


@lru_cache(maxsize=1)
def _quota() -> int | None:
    """CPUs that the container may use, rounded up, or None."""
    try:
        quota, period = _QUOTA_FILE.read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return None


def thread_count(num_threads: int | None) -> int:
    """`num_threads`, or as many as this process may use. Raises TypeError or ValueError for anything but 1 or more."""
    if num_threads is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(affinity, _quota() or affinity)
    if isinstance(num_threads, bool) or not isinstance(num_threads, int):
        raise TypeError(f"num_threads: expected int or None, got {type(num_threads).__name__}")
    if num_threads < 1:
        raise ValueError(f"num_threads: expected at least 1, got {num_threads}")
    return num_threads
