"""Tokens a second and peak memory of a stretch of code, for the examples beside it (Linux)."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path


def peak_megabytes() -> float:
    """Largest resident memory of this process since `reset_peak`."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def reset_peak() -> None:
    """Starts the peak again at what the process has now."""
    Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def measured(name: str, tokens: int) -> Iterator[None]:
    """Prints what the block took, per token, and how far memory rose above what was there before it."""
    reset_peak()
    memory, start = peak_megabytes(), time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    rise = peak_megabytes() - memory
    print(f"{name:<10} {tokens / seconds:10,.0f} tokens/s   peak memory +{rise:,.0f} MB", flush=True)
