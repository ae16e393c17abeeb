"""What a run tells the outside: one report per step, as a progress bar and as metrics.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias


@dataclass(frozen=True)
class StepReport:
    """One optimizer step. Losses are means in nats per unit of weight; `grad_norm` is the norm before
    clipping.

    Step 0 is the evaluation before the first step, where only `eval_loss` is known.
    """

    step: int
    max_steps: int
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float = 0.0
    grad_norm: float | None = None
    tokens: int = 0
    tokens_per_second: float = 0.0


class StepListener(Protocol):
    def on_step(self, report: StepReport) -> Any: ...


OnStep: TypeAlias = Callable[[StepReport], Any]


def listener(callback: OnStep | StepListener) -> OnStep:
    """The function behind a callback; raises TypeError when it is neither a function nor has `on_step`."""
    function = getattr(callback, "on_step", callback)
    if not callable(function):
        raise TypeError(f"callbacks: expected a function or an object with on_step, got {callback!r}")
    return function


@contextmanager
def progress_bar(label: str) -> Iterator[OnStep]:
    """A callback that shows loss, tokens per second and time left on stderr; silent when that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),  # the only one that shrinks
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, expand=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None, numbers="")
        held_out = ""

        def on_step(report: StepReport) -> None:
            nonlocal held_out
            held_out = held_out if report.eval_loss is None else f" (validation {report.eval_loss:.3f})"
            loss = "" if report.loss is None else f"loss {report.loss:.3f}"
            numbers = f"{loss}{held_out} {report.tokens_per_second:,.0f} tokens/s"
            progress.update(task, total=report.max_steps, completed=report.step, numbers=numbers)

        yield on_step


@contextmanager
def spinner(label: str) -> Iterator[None]:
    """Shows `label` on stderr while the block runs; silent when that is not a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{label} ..."):
        yield


class MetricsFile:
    """A callback that appends reports to a file of JSON lines: every `every` steps, and each with an
    evaluation.

    A file that is there already keeps its lines up to `resumed_step`, and loses those that the resumed run
    repeats.
    """

    def __init__(self, path: Path, *, every: int, resumed_step: int = 0) -> None:
        self._path, self._every = path, every
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_step] if resumed_step else []
        unfinished = path.with_name(f".{path.name}.unfinished")
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(unfinished, path)

    def on_step(self, report: StepReport) -> None:
        if report.step % self._every == 0 or report.eval_loss is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(report)) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; none when it is not there, and a line cut off by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
