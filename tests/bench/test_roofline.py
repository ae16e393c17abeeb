"""The roofs are measured by loops that do what they say, at the level they say."""

from __future__ import annotations

import pytest
import torch
from pyllm.bench import roofline
from pyllm.bench.roofline import Peaks, Roofline, measure_roofline, table
from rich.console import Console

from pyllm.ops import _library
from tests.ops.conftest import levels

FLOAT_ONLY = Peaks(1, 1e9, 5e8, {"fma_fp32": 1e9})
ROOFLINE = Roofline("avx2", FLOAT_ONLY, Peaks(2, 2e9, 4e9, {"fma_fp32": 1e9, "amx_bf16": 1e10}))


def test_the_slower_roof_limits() -> None:
    assert ROOFLINE.limit(4_000_000, 10, torch.float32) == (1e-3, "memory")
    assert ROOFLINE.limit(10, 1_000_000, torch.float32) == (1e-3, "fma_fp32")
    assert ROOFLINE.limit(10, 1_000_000, torch.bfloat16) == (1e-4, "amx_bf16")
    assert ROOFLINE.limit(10, 1_000_000, torch.float16) == (1e-3, "fma_fp32")
    assert Roofline("avx2", FLOAT_ONLY, FLOAT_ONLY).limit(1, 1000, torch.bfloat16) == (1e-6, "fma_fp32")


@pytest.mark.parametrize("level", levels())
def test_every_unit_counts_its_operations(level: str) -> None:
    with _library.forced_isa(level):
        for unit in torch.ops.pyllm.peak_units().split(","):
            assert unit in roofline.UNITS
            one = torch.ops.pyllm.peak_loop(unit, 1, 1)
            assert one > 0
            assert torch.ops.pyllm.peak_loop(unit, 3, 10) == 30 * one
        with pytest.raises(ValueError, match="nope"):
            torch.ops.pyllm.peak_loop("nope", 1, 1)


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("count", [0, 1, 63, 64, 1000, 4099])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_passes_touch_every_element(level: str, count: int, threads: int) -> None:
    x, out = torch.arange(count, dtype=torch.float32), torch.full((count + 1,), -1.0)
    with _library.forced_isa(level):
        assert torch.ops.pyllm.peak_read(x, threads) == pytest.approx(count * (count - 1) / 2, rel=1e-5)
        torch.ops.pyllm.peak_copy(x, out[:count], threads)
    assert torch.equal(out[:count], x)
    assert out[count] == -1.0


def test_measured_roofs_and_absent_units_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_BUFFER_BYTES", 1 << 16)
    monkeypatch.setattr(roofline, "_LOOP_SECONDS", 0.0)
    with _library.forced_isa("scalar"):
        measured = measure_roofline()
    assert measured.isa == "scalar"
    assert measured.all.threads == torch.get_num_threads()
    assert min(measured.single.read, measured.single.copy, *measured.single.operations.values()) > 0
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table(measured))
    assert next(line for line in capture.get().splitlines() if "amx_int8" in line).count("absent") == 2
