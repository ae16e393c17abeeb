"""One training step: seconds and peak memory, ours beside transformers, eager and compiled.

python -m pyllm.bench.end_to_end.training_step --model smollm2-135m --precision bf16
python -m pyllm.bench.end_to_end.training_step --profile
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer


@dataclass(frozen=True)
class Measured:
    """A contender's steps: seconds each, and the peak of its memory above its imports."""

    contender: str
    seconds: list[float]
    peak_bytes: int

    @property
    def median(self) -> float:
        from statistics import median

        return median(self.seconds)


def main(
    model: Annotated[
        str, typer.Option(help="smollm2-135m (4 x 512 tokens) or gpt2-30m (8 x 256).")
    ] = "smollm2-135m",
    precision: Annotated[str, typer.Option(help="fp32, autocast or bf16.")] = "bf16",
    contender: Annotated[
        list[str] | None,
        typer.Option(
            help="pyllm, transformers, 'transformers compiled', 'transformers patched'...; all without one."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Timed steps of each, in turn.", min=1)] = 3,
    threads: Annotated[int, typer.Option(help="Threads of each contender.", min=1)] = os.cpu_count() or 1,
    layers: Annotated[
        int | None, typer.Option(help="Another number of layers than the model has.", min=1)
    ] = None,
    checkpointing: Annotated[str, typer.Option(help="pyllm's: none, selective or full.")] = "none",
    profile: Annotated[bool, typer.Option("--profile", help="Where pyllm's step goes, op by op.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also save every number.", metavar="FILE")] = None,
) -> None:
    """Measure one training step: forward, loss, backward, AdamW.

    Every contender has a process of its own; they take turns, so that all see the same machine. The first step
    of each, in which torch compiles, is not timed. Memory is the peak of a process above what it has after its imports.
    """
    import pyllm

    pyllm.tune_allocator()
    from rich.console import Console

    from . import contenders
    from .saving import save

    for name, value, known in (
        ("--model", model, tuple(contenders.SHAPES)),
        ("--precision", precision, contenders.PRECISIONS),
        *(("--contender", one, contenders.CONTENDERS) for one in contender or ()),
    ):
        if value not in known:
            raise typer.BadParameter(f"expected one of {', '.join(known)}, got {value!r}", param_hint=name)
    output = Console()
    output = output if output.is_terminal else Console(width=140)
    if profile:
        from . import step_profile

        result = step_profile.measure(model, precision, checkpointing, layers, threads)
        output.print(step_profile.table(result))
        found: Any = asdict(result)
    else:
        names = contender or list(contenders.CONTENDERS)
        rows = measure(names, rounds, model, layers, precision, checkpointing, threads)
        output.print(table(rows, contenders.shape_of(model), f"{model}, {precision}, {threads} threads"))
        found = [asdict(row) | {"median": row.median} for row in rows]
    if json is not None:
        save(
            json,
            found,
            {"model": model, "precision": precision, "checkpointing": checkpointing, "layers": layers},
        )


def measure(
    names: list[str],
    rounds: int,
    model: str,
    layers: int | None,
    precision: str,
    checkpointing: str,
    threads: int,
) -> list[Measured]:
    """One untimed step each, then `rounds` interleaved ones."""
    from rich.console import Console
    from rich.progress import Progress

    from . import contenders
    from .workers import Worker

    def worker(name: str) -> Worker:
        imports = () if name == contenders.OURS else ("transformers",)
        arguments = (model, layers, name, precision, checkpointing)
        return Worker(contenders.make_step_of, *arguments, threads=threads, imports=imports)

    console = Console(stderr=True)
    with ExitStack() as stack, Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("steps", total=len(names) * (rounds + 1))
        workers = {name: stack.enter_context(worker(name)) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds + 1):
            for name, contender in workers.items():
                seconds[name].append(contender.seconds_of())
                progress.advance(task)
        return [Measured(name, seconds[name][1:], workers[name].peak_bytes()) for name in names]


def table(rows: list[Measured], shape: Any, title: str) -> Any:
    """One row per contender."""
    from rich import box
    from rich.table import Table

    from .contenders import OURS

    ours = next((row for row in rows if row.contender == OURS), rows[0])
    shown = Table("", box=box.SIMPLE_HEAD, title=f"training step: {title}", title_justify="left")
    for column in ("seconds", "least", "most", "tokens/s", "peak memory", "time", "memory"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            row.contender,
            f"{row.median:.3f}",
            f"{min(row.seconds):.3f}",
            f"{max(row.seconds):.3f}",
            f"{shape.rows * shape.tokens / row.median:,.0f}",
            f"{row.peak_bytes / 2**20:,.0f} MB",
            f"{row.median / ours.median:.2f}x",
            f"{row.peak_bytes / ours.peak_bytes:.2f}x",
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
