"""What this machine can do at this moment, so that a row can say how much of it is used.

Every roof is measured by a loop of our own that does nothing else (csrc/bench), on one thread and on all of torch's,
the best of several runs: reads of 512 MB and copies of as much; multiply-adds of floats at the active level; and, where
the processor has them, sums of byte products (VNNI), of bfloat16 products (AVX512-BF16), and tile products (AMX). A
unit that the machine lacks, or that the level does not allow, is absent, not zero.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pyllm.ops import _library

if TYPE_CHECKING:
    from rich.table import Table

UNITS = {
    "fma_fp32": "multiply-add of floats",
    "vnni_int8": "VNNI, products of bytes",
    "dot_bf16": "AVX512-BF16, products of bfloat16",
    "amx_bf16": "AMX, products of bfloat16",
    "amx_int8": "AMX, products of bytes",
}
MEMORY = "memory"
_BUFFER_BYTES = 512 << 20
_MEMORY_RUNS = 8
_LOOP_SECONDS = 0.05
_LOOP_RUNS = 5


@dataclass(frozen=True)
class Peaks:
    """Rates of `threads` threads together.

    Attributes:
        read, copy: bytes per second; a copy's reads and writes both count.
        operations: unit -> operations per second, a multiply-add being two; absent units are not in it.
    """

    threads: int
    read: float
    copy: float
    operations: dict[str, float]

    @property
    def memory(self) -> float:
        """Bytes per second of the better of the two passes."""
        return max(self.read, self.copy)

    def best(self, other: Peaks) -> Peaks:
        """The higher of each of two measurements."""
        operations = {unit: max(rate, other.operations[unit]) for unit, rate in self.operations.items()}
        return Peaks(self.threads, max(self.read, other.read), max(self.copy, other.copy), operations)


@dataclass(frozen=True)
class Roofline:
    """The roofs at level `isa`: of one thread, and of all threads, which rows are judged by."""

    isa: str
    single: Peaks
    all: Peaks

    def limit(self, moved_bytes: int, flops: int, dtype: torch.dtype) -> tuple[float, str]:
        """Least seconds the work can take, and the roof that says so: "memory" or a unit, whichever is slower."""
        unit = self._unit(dtype)
        return max((moved_bytes / self.all.memory, MEMORY), (flops / self.all.operations[unit], unit))

    def rate(self, roof: str) -> float:
        """Bytes or operations per second of all threads at that roof."""
        return self.all.memory if roof == MEMORY else self.all.operations[roof]

    def best(self, other: Roofline) -> Roofline:
        """The higher of each of two measurements."""
        return Roofline(self.isa, self.single.best(other.single), self.all.best(other.all))

    def _unit(self, dtype: torch.dtype) -> str:
        """bfloat16 runs on tiles where there are any; everything else is computed in floats."""
        on_tiles = dtype is torch.bfloat16 and "amx_bf16" in self.all.operations
        return "amx_bf16" if on_tiles else "fma_fp32"


def measure_roofline() -> Roofline:
    """Measures every roof; a few seconds.

    Raises:
        RuntimeError: the compiled operators are missing.
    """
    if not _library.LOADED:
        raise RuntimeError(f"roofline: compiled operators not loaded ({_library.why_not_loaded()})")
    source = torch.ones(_BUFFER_BYTES // 4)
    target = torch.ones_like(source)
    single, every = (_peaks(threads, source, target) for threads in (1, torch.get_num_threads()))
    return Roofline(torch.ops.pyllm.active_isa(), single, every)


def _peaks(threads: int, source: torch.Tensor, target: torch.Tensor) -> Peaks:
    ops = torch.ops.pyllm
    read = _best_seconds(functools.partial(ops.peak_read, source, threads), _MEMORY_RUNS)
    copy = _best_seconds(functools.partial(ops.peak_copy, source, target, threads), _MEMORY_RUNS)
    operations = {unit: _loop_rate(unit, threads) for unit in ops.peak_units().split(",")}
    return Peaks(threads, _BUFFER_BYTES / read, 2 * _BUFFER_BYTES / copy, operations)


def _loop_rate(unit: str, threads: int) -> float:
    rounds = 1024
    loop = functools.partial(torch.ops.pyllm.peak_loop, unit, threads, rounds)
    while _best_seconds(loop, 1) < _LOOP_SECONDS:
        rounds *= 2
        loop = functools.partial(torch.ops.pyllm.peak_loop, unit, threads, rounds)
    return loop() / _best_seconds(loop, _LOOP_RUNS)


def _best_seconds(call: Callable[[], Any], runs: int) -> float:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def table(roofline: Roofline) -> Table:
    """The roofs, one column for one thread and one for all."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, title=f"roofs at level {roofline.isa}", title_justify="left")
    columns = (roofline.single, roofline.all)
    shown.add_column("")
    for peaks in columns:
        shown.add_column(f"{peaks.threads} thread{'s' if peaks.threads > 1 else ''}", justify="right")
    shown.add_row("read memory", *(f"{peaks.read / 1e9:.1f} GB/s" for peaks in columns))
    shown.add_row("copy memory", *(f"{peaks.copy / 1e9:.1f} GB/s" for peaks in columns))
    for unit, meaning in UNITS.items():
        shown.add_row(f"{unit}: {meaning}", *(_rate(peaks.operations.get(unit)) for peaks in columns))
    return shown


def _rate(rate: float | None) -> str:
    return "absent" if rate is None else f"{rate / 1e9:,.0f} Gop/s"
