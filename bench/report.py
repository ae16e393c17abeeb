"""Runs cases and shows them: one row per case, ours beside every rival, losses included."""

from __future__ import annotations

import gc
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from .case import OURS, Call, Case
from .roofline import UNITS, Peaks, Roofline, measure_roofline
from .timing import Timing, compare, merge

if TYPE_CHECKING:
    from rich.table import Table

_CAPTION = (
    "ms: median of interleaved rounds. x: how many times faster pyllm is; below 1 it is slower; -: no such rival.\n"
    "of roof: least time that memory or arithmetic allows, over ours; above 100% the data came from cache."
)
NOT_AVAILABLE = "not available"


@dataclass(frozen=True)
class Row:
    """One measured case.

    Attributes:
        timings: contender -> seconds per call. unavailable: rival -> why it could not run this case.
        roof_seconds: least seconds the machine allows. roof: what limits it, "memory" or a unit of arithmetic.
    """

    op: str
    case: str
    direction: str
    timings: dict[str, Timing]
    roof_seconds: float
    roof: str
    unavailable: dict[str, str] = field(default_factory=dict)

    @property
    def share_of_roof(self) -> float:
        return self.roof_seconds / self.timings[OURS].median

    def speedup(self, rival: str) -> float:
        """How many times faster ours is than `rival`."""
        return self.timings[rival].median / self.timings[OURS].median


def op_names() -> list[str]:
    """Ops that have a bench file here."""
    package = importlib.import_module(__package__)
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name.removeprefix("bench_") for name in names if name.startswith("bench_"))


def cases_of(op: str, *, full: bool = False) -> list[Case]:
    """The cases of one op, those of the long form where `full`; raises ValueError for a name without a bench file."""
    return [case for case in _module(op).cases() if full or case.quick]


def small_cases_of(op: str) -> list[Case]:
    """Every kind of case of one op, at sizes that a test can afford."""
    module = _module(op)
    return getattr(module, "small_cases", module.cases)()


def _module(op: str) -> Any:
    if op not in op_names():
        raise ValueError(f"op: expected one of {', '.join(op_names())}, got {op!r}")
    return importlib.import_module(f"{__package__}.bench_{op}")


def measure(cases: dict[str, Sequence[Case]], roofline: Roofline, seconds: float = 0.4) -> Iterator[Row]:
    """Measures `cases` (op -> its cases) one by one."""
    for op, of_op in cases.items():
        for case in of_op:
            roof_seconds, roof = roofline.limit(case.moved_bytes, case.flops, case.dtype)
            with torch.random.fork_rng():
                calls, unavailable = able(case.build())
                timings = compare(calls, seconds)
            del calls
            gc.collect()
            yield Row(op, case.name, case.direction, timings, roof_seconds, roof, unavailable)


def measure_runs(
    cases: dict[str, Sequence[Case]], runs: int, done: Callable[[Row], Any], seconds: float = 0.4
) -> tuple[list[Row], Roofline]:
    """Measures roofs and all cases `runs` times over, calling `done` after every row: medians, and the best roofs."""
    measured: list[list[Row]] = []
    roofline = measure_roofline()
    for run in range(runs):
        if run > 0:
            roofline = roofline.best(measure_roofline())
        measured.append([])
        for row in measure(cases, roofline, seconds):
            measured[-1].append(row)
            done(row)
    return merge_runs(measured), roofline


def able(calls: dict[str, Call]) -> tuple[dict[str, Call], dict[str, str]]:
    """Calls every rival once, so that all are compiled: those that ran, and why the others did not."""
    able, unavailable = dict(calls), {}
    for name in [name for name in calls if name != OURS]:
        try:
            calls[name]()
        except Exception as error:  # a rival may fail in any way: it is shown, and the others are measured
            unavailable[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            del able[name]
    return able, unavailable


def merge_runs(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """The same rows of several runs as one list: medians of the runs."""
    return [
        replace(
            rows[0],
            timings={name: merge([row.timings[name] for row in rows]) for name in rows[0].timings},
            roof_seconds=min(row.roof_seconds for row in rows),
        )
        for rows in zip(*runs, strict=True)
    ]


def rival_names(rows: Sequence[Row]) -> list[str]:
    """Every rival of any row, in order of appearance."""
    names = [name for row in rows for name in (*row.timings, *row.unavailable)]
    return [name for name in dict.fromkeys(names) if name != OURS]


def table(rows: Sequence[Row]) -> Table:
    """Milliseconds of ours and of each rival, and how many times faster ours is (below 1: slower)."""
    from rich import box
    from rich.table import Table

    rivals = rival_names(rows)
    shown = Table(box=box.SIMPLE_HEAD, caption=_CAPTION, caption_justify="left")
    for heading in ("op", "case", "pass"):
        shown.add_column(heading, no_wrap=True)
    for heading in (f"{OURS} ms", *(f"{rival} ms" for rival in rivals), "of roof"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for previous, row in zip([None, *rows], rows, strict=False):
        op = "" if previous and previous.op == row.op else row.op
        ours = f"{row.timings[OURS].median * 1e3:.3f}"
        numbers = [_rival_cell(row, rival) for rival in rivals]
        shown.add_row(op, row.case, row.direction, ours, *numbers, f"{row.share_of_roof:.0%}")
    return shown


def _rival_cell(row: Row, rival: str) -> str:
    if rival not in row.timings:
        return NOT_AVAILABLE if rival in row.unavailable else "-"
    speedup = row.speedup(rival)
    colour = "green" if speedup >= 1.0 else "red"
    return f"{row.timings[rival].median * 1e3:.3f} [{colour}]{speedup:5.2f}x[/{colour}]"


def as_json(rows: Sequence[Row], roofline: Roofline, conditions: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, in seconds, bytes and operations per second; an absent unit is null."""
    roofs = {"single": _peaks_json(roofline.single), "all": _peaks_json(roofline.all)}
    return {
        "conditions": conditions,
        "roofline": {"isa": roofline.isa, **roofs},
        "rows": [asdict(row) for row in rows],
    }


def _peaks_json(peaks: Peaks) -> dict[str, Any]:
    return {**asdict(peaks), "operations": {unit: peaks.operations.get(unit) for unit in UNITS}}


def from_json(saved: dict[str, Any]) -> tuple[list[Row], Roofline]:
    """Rows and roofs of what `as_json` made."""
    rows = [
        Row(**{**row, "timings": {name: Timing(**timing) for name, timing in row["timings"].items()}})
        for row in saved["rows"]
    ]
    roofs = saved["roofline"]
    return rows, Roofline(roofs["isa"], *(_peaks_from_json(roofs[which]) for which in ("single", "all")))


def _peaks_from_json(saved: dict[str, Any]) -> Peaks:
    present = {unit: rate for unit, rate in saved["operations"].items() if rate is not None}
    return Peaks(**{**saved, "operations": present})
