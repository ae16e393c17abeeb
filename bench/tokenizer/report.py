"""Measures cases and shows them: MB of text per second, ours beside every rival, losses included."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyllm.bench.conditions import cpu_model
from pyllm.bench.timing import Timing, compare, from_samples, merge

import pyllm

from . import decoding, encoding, texts, training, vocabularies
from .case import Call, Case, check
from .contenders import OURS, THREADS, limit_threads
from .contenders import loaded as loaded_contenders

if TYPE_CHECKING:
    from rich.table import Table

_PROCESS_ROUNDS = 3
_PACKAGES = ("tiktoken", "tokenizers", "gigatoken", "quicktok-v1", "sentencepiece", "rustbpe", "gigabpe")
_CAPTION = (
    "MB/s of text (load: seconds): median of interleaved rounds. x: how many times faster pyllm is; below 1 it is "
    "slower.\n-: no such call or not such a vocabulary. What is missing or wrong is said below."
)


@dataclass(frozen=True)
class Row:
    """One measured case: contender -> seconds per call, and rival -> why it has no time."""

    task: str
    case: str
    text_bytes: int | None
    timings: dict[str, Timing]
    unavailable: dict[str, str] = field(default_factory=dict)

    def speedup(self, rival: str) -> float:
        """How many times faster ours is than `rival`."""
        return self.timings[rival].median / self.timings[OURS].median

    def speed(self, contender: str) -> str:
        """MB/s of the median, or its seconds where no text is gone through."""
        return self.speed_of(self.timings[contender].median)

    def speed_of(self, seconds: float) -> str:
        if self.text_bytes is None:
            return f"{seconds:.3g} s"
        speed = self.text_bytes / seconds / 1e6
        return f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"


def cases(
    folder: Path | None = None, *, size: int = 1_000_000, full: bool = False, only: str = ""
) -> list[Case]:
    """The cases whose vocabularies are here, on `size` bytes of each text.

    folder: see `texts.find`. only: what a case's label must contain, as "long text, cl100k".

    Raises FileNotFoundError without any vocabulary.
    """
    found = texts.find(folder, size)
    every = [*encoding.cases(found), *decoding.cases(found), *training.cases(found)]
    present = {v.name for v in vocabularies.VOCABULARIES.values() if v.is_present}
    if not present:
        raise FileNotFoundError(
            2, "No vocabularies here; `make assets` fetches them", str(vocabularies.folder())
        )
    missing = {name for name in vocabularies.VOCABULARIES if name not in present}
    return [
        case
        for case in every
        if (full or case.quick) and only in case.label and case.name.partition(",")[0] not in missing
    ]


def measure(chosen: Sequence[Case], seconds: float = 0.4) -> Iterator[Row]:
    """Measures the cases one by one; answers are compared before. Raises ValueError if ours is wrong."""
    limit_threads()
    for case in chosen:
        calls, unavailable = case.build()
        wrong = check(case, calls)
        right = {name: call for name, call in calls.items() if name not in wrong}
        timings = _time_processes(right) if case.in_processes else compare(right, seconds)
        yield Row(case.task, case.name, case.text_bytes, timings, {**unavailable, **wrong})
        del calls, right
        gc.collect()


def _time_processes(calls: dict[str, Call]) -> dict[str, Timing]:
    rounds = [{name: call().seconds for name, call in calls.items()} for _ in range(_PROCESS_ROUNDS)]
    return {name: from_samples([times[name] for times in rounds]) for name in calls}


def measure_runs(
    chosen: Sequence[Case], runs: int, done: Callable[[Row], Any], seconds: float = 0.4
) -> list[Row]:
    """Measures all cases `runs` times over, calling `done` after every row: medians of the runs."""
    measured: list[list[Row]] = []
    for _ in range(runs):
        measured.append([])
        for row in measure(chosen, seconds):
            measured[-1].append(row)
            done(row)
        loaded_contenders.cache_clear()
    return merge_runs(measured)


def merge_runs(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """The same rows of several runs as one list."""
    return [
        replace(
            rows[0], timings={name: merge([row.timings[name] for row in rows]) for name in rows[0].timings}
        )
        for rows in zip(*runs, strict=True)
    ]


def rival_names(rows: Sequence[Row]) -> list[str]:
    """Every rival of any row, in order of appearance."""
    names = [name for row in rows for name in (*row.timings, *row.unavailable)]
    return [name for name in dict.fromkeys(names) if name != OURS]


def table(rows: Sequence[Row]) -> Table:
    """Speeds of ours and of each rival, and how many times faster ours is."""
    from rich import box
    from rich.table import Table

    rivals = rival_names(rows)
    shown = Table(box=box.SIMPLE_HEAD, caption=_CAPTION, caption_justify="left")
    for heading in ("task", "case"):
        shown.add_column(heading, no_wrap=True)
    for heading in (OURS, *rivals):
        shown.add_column(heading, justify="right", no_wrap=True)
    for previous, row in zip([None, *rows], rows, strict=False):
        task = "" if previous and previous.task == row.task else row.task
        shown.add_row(task, row.case, row.speed(OURS), *(_rival_cell(row, rival) for rival in rivals))
    return shown


def _rival_cell(row: Row, rival: str) -> str:
    if rival not in row.timings:
        return mark_of_absence(row, rival)
    speedup = row.speedup(rival)
    colour = "green" if speedup >= 1.0 else "red"
    return f"{row.speed(rival)} [{colour}]{speedup:.3g}x[/{colour}]"


def mark_of_absence(row: Row, rival: str) -> str:
    """What a table shows for a rival without a time."""
    reason = row.unavailable.get(rival)
    if reason is None:
        return "-"
    return next((mark for mark in ("not installed", "wrong") if reason.startswith(mark)), "failed")


def absences(rows: Sequence[Row]) -> list[str]:
    """Why rivals have no time, each reason once, with the first case it holds for."""
    reasons: dict[tuple[str, str], str] = {}
    for row in rows:
        for rival, why in row.unavailable.items():
            reasons.setdefault((rival, why), f"{row.task}, {row.case}")
    return [f"{rival}: {why} ({label})" for (rival, why), label in reasons.items()]


def conditions(*, runs: int, full: bool) -> dict[str, Any]:
    """Machine, versions and size of the run."""
    return {
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "pyllm": asdict(pyllm.info()),
        "packages": {name: _version(name) for name in _PACKAGES},
        "threads": THREADS,
        "runs": runs,
        "full": full,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def as_json(rows: Sequence[Row], conditions: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, in bytes and seconds."""
    return {"conditions": conditions, "rows": [asdict(row) for row in rows]}


def from_json(saved: dict[str, Any]) -> list[Row]:
    """The rows of what `as_json` made."""
    return [
        Row(**{**row, "timings": {name: Timing(**timing) for name, timing in row["timings"].items()}})
        for row in saved["rows"]
    ]


def file_name() -> str:
    """As for ops: avx2-2threads.json, or avx512-at-avx2-2threads.json below the machine's own level."""
    facts = pyllm.info()
    machine, level = facts.machine_isa, facts.active_isa
    kind = level if level == machine else f"{machine}-at-{level}"
    return f"{kind}-{THREADS}threads.json"
