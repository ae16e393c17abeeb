"""`pyllm bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    op: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ops to measure; all without one. `roofline` measures the machine only.", metavar="[OP]..."
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All shapes instead of a few; an hour or so.")] = False,
    runs: Annotated[int, typer.Option("--runs", help="Measure everything so many times over.", min=1)] = 1,
    isa: Annotated[
        str | None,
        typer.Option("--isa", help="Hold pyllm and its rivals to a level: scalar, avx2 or avx512."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Also save every number; in a folder, named by machine.", metavar="FILE"),
    ] = None,
) -> None:
    """Measure ops beside PyTorch, torch.compile and flex_attention.

    All contenders run interleaved in this process; medians are shown (of the runs' medians), also where pyllm loses.
    Percentages are of the memory bandwidth and the arithmetic rate measured in the same run.

    Example:
        pyllm bench rms_norm swiglu --json bench.json
        pyllm bench roofline
        pyllm bench attention --full --runs 3 --isa avx2
    """
    from json import dumps

    from rich.console import Console
    from rich.progress import Progress

    import pyllm
    from pyllm.bench import conditions, levels, report, roofline
    from pyllm.checkpoints.atomic import atomic_path

    if json is not None and not (json.is_dir() or json.parent.is_dir()):
        raise FileNotFoundError(2, "No such folder", str(json.parent))
    cases = {name: report.cases_of(name, full=full) for name in op or report.op_names() if name != "roofline"}
    if isa is not None:
        options = [*(["--full"] if full else []), *(["--json", str(json)] if json else [])]
        levels.restart_at(isa, ["bench", *(op or []), "--runs", str(runs), "--isa", isa, *options])
    pyllm.tune_allocator()
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=runs * sum(map(len, cases.values())))
        rows, roofs = report.measure_runs(cases, runs, lambda row: progress.advance(task))
    output = Console()
    output = output if output.is_terminal else Console(width=140)
    output.print(pyllm.info(), roofline.table(roofs), *([report.table(rows)] if rows else []), sep="\n")
    if json is not None:
        file = json / conditions.file_name(roofs) if json.is_dir() else json
        text = dumps(report.as_json(rows, roofs, conditions.gather(runs=runs, full=full)), indent=1)
        with atomic_path(file) as unfinished:
            unfinished.write_text(text + "\n")
