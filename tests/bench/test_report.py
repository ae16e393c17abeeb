from __future__ import annotations

import functools
import itertools
import json

import pytest
import torch
from pyllm.bench import report
from pyllm.bench.case import Case
from pyllm.bench.roofline import Peaks, Roofline
from pyllm.bench.timing import Timing, compare
from rich.console import Console

PEAKS = Peaks(1, 1e9, 1e9, {"fma_fp32": 1e9})
ROOFLINE = Roofline("avx2", PEAKS, PEAKS)


def test_rounds_are_interleaved() -> None:
    log: list[str] = []
    calls = {name: functools.partial(log.append, name) for name in ("a", "b")}
    timings = compare(calls, seconds=0.0)
    assert timings["a"].rounds == timings["b"].rounds >= 7
    turns = [name for name, _ in itertools.groupby(log)]
    assert turns == ["a", "b"] * (timings["a"].rounds + 1)  # the first turn warms up


def test_losses_are_shown() -> None:
    timings = {"pyllm": Timing(2e-3, 2e-3, 2e-3, 7), "torch": Timing(1e-3, 1e-3, 1e-3, 7)}
    console = Console(width=120)
    with console.capture() as capture:
        console.print(report.table([report.Row("op", "shape", "forward", timings, 1e-3)]))
    assert "0.50x" in capture.get()
    assert "50%" in capture.get()


def test_measured_rows_become_json() -> None:
    x = torch.ones(8)
    case = Case("8 fp32", torch.float32, torch.neg, torch.neg, (x,), 64, 8, can_compile=False)
    rows = list(report.measure({"neg": [case]}, ROOFLINE, seconds=0.0))
    saved = json.loads(json.dumps(report.as_json(rows, ROOFLINE, {"torch": "2"})))
    assert saved["rows"][0]["timings"].keys() == {"pyllm", "torch"}
    assert saved["roofline"]["all"]["operations"]["fma_fp32"] == 1e9


def test_unknown_op_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"rms_norm.*got 'nope'"):
        report.cases_of("nope")
