"""Seconds of training until a validation loss: nanoGPT's tiny-Shakespeare recipe for CPUs, ours beside plain PyTorch.

python -m pyllm.bench.end_to_end.time_to_loss --data tinyshakespeare/input.txt
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .shakespeare import Characters, Run

# Contenders take turns of so many steps; the validation loss is looked at, off the clock, after each turn.
TURN = 50


@dataclass
class Progress:
    """How a contender fares: training seconds so far, and (step, seconds, validation loss) after every turn."""

    contender: str
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def reached(self, target: float) -> tuple[int, float] | None:
        """Steps and seconds at the first look that found the target, None if none did."""
        return next(((step, at) for step, at, loss in self.curve if loss <= target), None)


def main(
    data: Annotated[
        Path, typer.Option(help="The text, tiny Shakespeare's input.txt.", exists=True, dir_okay=False)
    ],
    target: Annotated[float, typer.Option(help="Validation loss to reach, nats per character.")] = 1.88,
    steps: Annotated[int, typer.Option(help="Most steps of each.", min=1)] = 2000,
    contender: Annotated[
        list[str] | None, typer.Option(help="pyllm, torch or torch.compile; all without one.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch and pyllm.", min=1)] = os.cpu_count() or 1,
    json: Annotated[Path | None, typer.Option(help="Also save every number.", metavar="FILE")] = None,
) -> None:
    """Train each contender until its validation loss is at most the target.

    They run in one process and take turns of 50 steps. A contender's first step, in which torch compiles, is made once
    before on a copy and not timed; neither is the look at the validation loss.
    """
    import pyllm

    pyllm.tune_allocator()
    import torch
    from rich.console import Console

    from . import shakespeare

    torch.set_num_threads(threads)
    names = contender or list(shakespeare.CONTENDERS)
    for name in names:
        if name not in shakespeare.CONTENDERS:
            known = ", ".join(shakespeare.CONTENDERS)
            raise typer.BadParameter(f"expected one of {known}, got {name!r}", param_hint="--contender")
    text = shakespeare.Characters(data)
    found = race(names, text, shakespeare.make_run, target, steps)
    Console().print(table(found, target))
    if json is not None:
        from pyllm.checkpoints.atomic import atomic_path

        from .. import conditions  # noqa: TID252  # the package has two names

        document = {
            "conditions": conditions.gather(runs=1, full=True),
            "settings": {"target": target, "steps": steps, "threads": threads},
            "results": [asdict(progress) for progress in found],
        }
        with atomic_path(json) as unfinished:
            unfinished.write_text(dumps(document, indent=1) + "\n")


def race(
    names: Sequence[str], text: Characters, make_run: Callable[[str, int], Run], target: float, steps: int
) -> list[Progress]:
    """Turns of training, round and round, until all have reached the target or run out of steps."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    for name in names:
        make_run(name, text.vocab_size).step(0, *text.batch(0))
    runs = {name: make_run(name, text.vocab_size) for name in names}
    found = {name: Progress(name) for name in names}
    console = Console(stderr=True)
    with Bar(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("steps", total=steps * len(names))
        for start in range(0, steps, TURN):
            for name, progress in found.items():
                if progress.reached(target) is None:
                    _take_turn(progress, runs[name], text, range(start, min(start + TURN, steps)))
                bar.advance(task, TURN)
    return list(found.values())


def _take_turn(progress: Progress, run: Run, text: Characters, steps: range) -> None:
    import torch

    batches = [text.batch(step) for step in steps]
    start = time.perf_counter()
    for step, (inputs, targets) in zip(steps, batches, strict=True):
        run.step(step, inputs, targets)
    progress.seconds += time.perf_counter() - start
    with torch.no_grad():
        loss = run.loss(*text.validation_rows()).item()
    progress.curve.append((steps.stop, progress.seconds, loss))


def table(found: Sequence[Progress], target: float) -> Any:
    """One row per contender."""
    from rich import box
    from rich.table import Table

    shown = Table(
        "", box=box.SIMPLE_HEAD, title=f"validation loss {target} on tiny Shakespeare", title_justify="left"
    )
    for column in ("seconds", "steps", "ms per step", "last loss"):
        shown.add_column(column, justify="right")
    for progress in found:
        steps, seconds = progress.reached(target) or (None, None)
        last_step, last_seconds, last_loss = progress.curve[-1]
        shown.add_row(
            progress.contender,
            "not reached" if seconds is None else f"{seconds:.1f}",
            "" if steps is None else str(steps),
            f"{1e3 * last_seconds / last_step:.2f}",
            f"{last_loss:.3f}",
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
