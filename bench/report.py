"""Runs cases and shows them: one row per case, ours beside every rival, losses included."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from .case import Case
from .roofline import Roofline
from .timing import Timing, compare

if TYPE_CHECKING:
    from rich.table import Table

OURS = "pyllm"
_CAPTION = (
    "ms: median of interleaved rounds. x: how many times faster pyllm is; below 1 it is slower.\n"
    "of roof: least time that memory or arithmetic allows, over ours; above 100% the data came from cache."
)


@dataclass(frozen=True)
class Row:
    """One measured case: seconds per call of each contender, and the least seconds the machine's roofs allow."""

    op: str
    case: str
    direction: str
    timings: dict[str, Timing]
    roof_seconds: float

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


def cases_of(op: str) -> list[Case]:
    """The cases of one op; raises ValueError for a name without a bench file."""
    if op not in op_names():
        raise ValueError(f"op: expected one of {', '.join(op_names())}, got {op!r}")
    return importlib.import_module(f"{__package__}.bench_{op}").cases()


def measure(cases: dict[str, Sequence[Case]], roofline: Roofline, seconds: float = 0.4) -> Iterator[Row]:
    """Measures `cases` (op -> its cases) one by one."""
    for op, of_op in cases.items():
        for case in of_op:
            with torch.random.fork_rng():
                timings = compare(case.calls(), seconds)
            roof, _ = roofline.limit(case.moved_bytes, case.flops, case.dtype)
            yield Row(op, case.name, case.direction, timings, roof)


def table(rows: Sequence[Row]) -> Table:
    """Milliseconds of ours and of each rival, and how many times faster ours is (below 1: slower)."""
    from rich import box
    from rich.table import Table

    rivals = list(dict.fromkeys(name for row in rows for name in row.timings if name != OURS))
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
        return "-"
    speedup = row.speedup(rival)
    colour = "green" if speedup >= 1.0 else "red"
    return f"{row.timings[rival].median * 1e3:.3f} [{colour}]{speedup:5.2f}x[/{colour}]"


def as_json(rows: Sequence[Row], roofline: Roofline, machine: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, in seconds, bytes and operations per second."""
    return {
        "machine": machine,
        "roofline": asdict(roofline),
        "rows": [asdict(row) for row in rows],
    }
