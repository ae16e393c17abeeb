from __future__ import annotations

import functools
import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pyllm.bench import report
from pyllm.bench import timing as bench_timing
from pyllm.bench.case import Case, calls
from pyllm.bench.report import Row, merge_runs
from pyllm.bench.roofline import Peaks, Roofline
from pyllm.bench.timing import Timing, compare
from rich.console import Console

PEAKS = Peaks(1, 1e9, 1e9, {"fma_fp32": 1e9})
ROOFLINE = Roofline("avx2", PEAKS, PEAKS)


def timing(seconds: float) -> Timing:
    return Timing(seconds, seconds / 2, seconds * 2, 7)


def test_rounds_are_interleaved() -> None:
    log: list[str] = []
    timings = compare({name: functools.partial(log.append, name) for name in ("a", "b")}, seconds=0.0)
    assert timings["a"].rounds == timings["b"].rounds >= 7
    turns = [name for name, _ in itertools.groupby(log)]
    assert turns == ["a", "b"] * (timings["a"].rounds + 1)  # the first turn warms up


def test_slow_contenders_sit_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def call(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(bench_timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    durations = {"fast": 0.1, "slow": 0.7, "slower": 6.0}
    timings = compare({name: functools.partial(call, seconds) for name, seconds in durations.items()}, 0.0)
    assert [timings[name].rounds for name in durations] == [7, 3, 1]
    assert [timings[name].median for name in durations] == pytest.approx(list(durations.values()))


def test_losses_and_absences_are_shown() -> None:
    timings = {"pyllm": timing(2e-3), "torch": timing(1e-3)}
    rows = [
        Row("op", "shape", "forward", timings, 1e-3, "memory", {"flex_attention": "no backward"}),
        Row("op", "other shape", "forward", {**timings, "torch.compile": timing(8e-3)}, 1e-3, "memory"),
    ]
    console = Console(width=140)
    with console.capture() as capture:
        console.print(report.table(rows))
    first, second = (line for line in capture.get().splitlines() if "shape" in line)
    assert "0.50x" in first
    assert "50%" in first
    assert report.NOT_AVAILABLE in first
    assert "4.00x" in second
    assert report.NOT_AVAILABLE not in second


def failing(x: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError("no backward\nlong story")


def case(**rivals: Any) -> Case:
    x = torch.ones(8)
    build = functools.partial(calls, {"pyllm": torch.neg, **rivals}, (x,))
    return Case("8 fp32", torch.float32, "forward", 64, 8, build)


def test_measured_rows_become_json_and_back() -> None:
    rows = list(report.measure({"neg": [case(torch=torch.neg, broken=failing)]}, ROOFLINE, seconds=0.0))
    assert rows[0].timings.keys() == {"pyllm", "torch"}
    assert rows[0].unavailable == {"broken": "NotImplementedError: no backward"}
    assert rows[0].roof_seconds == 64 / 1e9
    saved = json.loads(json.dumps(report.as_json(rows, ROOFLINE, {"runs": 1})))
    assert saved["roofline"]["all"]["operations"]["amx_bf16"] is None
    assert report.from_json(saved) == (rows, ROOFLINE)


def test_ours_must_run() -> None:
    with pytest.raises(NotImplementedError, match="no backward"):
        list(report.measure({"neg": [case(pyllm=failing)]}, ROOFLINE, seconds=0.0))


def test_runs_become_their_median() -> None:
    runs = [
        [Row("op", "shape", "forward", {"pyllm": timing(s)}, 1e-3 * s, "memory")] for s in (1.0, 5.0, 2.0)
    ]
    [merged] = merge_runs(runs)
    assert merged.timings["pyllm"] == Timing(2.0, 0.5, 10.0, 21)
    assert merged.roof_seconds == 1e-3


def test_several_runs_measure_everything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    better = Roofline("avx2", PEAKS, Peaks(1, 5e8, 2e9, {"fma_fp32": 3e9}))
    measured = iter([ROOFLINE, better])
    monkeypatch.setattr(report, "measure_roofline", lambda: next(measured))
    done: list[Row] = []
    rows, roofline = report.measure_runs({"neg": [case(torch=torch.neg)]}, 2, done.append, seconds=0.0)
    assert len(done) == 2
    assert rows[0].timings["torch"].rounds == sum(row.timings["torch"].rounds for row in done)
    assert roofline.all == Peaks(1, 1e9, 2e9, {"fma_fp32": 3e9})
    assert roofline.rate("memory") == 2e9
    assert roofline.rate("fma_fp32") == 3e9


def test_unknown_op_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"rms_norm.*got 'nope'"):
        report.cases_of("nope")
