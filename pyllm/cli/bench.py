"""`pyllm bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    op: Annotated[
        list[str] | None, typer.Argument(help="Ops to measure; all without one.", metavar="[OP]...")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Also save every number.", metavar="FILE")
    ] = None,
) -> None:
    """Measure ops beside plain PyTorch and torch.compile.

    All contenders run interleaved in this process; medians are shown, also where pyllm loses. Percentages are of the
    memory bandwidth and the arithmetic rate measured at the start.

    Example:
        pyllm bench rms_norm swiglu --json bench.json
    """
    import dataclasses
    from json import dumps

    from rich.console import Console
    from rich.progress import track

    from pyllm.bench import report
    from pyllm.bench.roofline import measure_roofline
    from pyllm.checkpoints.atomic import atomic_path
    from pyllm.information import info

    if json is not None and not json.parent.is_dir():
        raise FileNotFoundError(2, "No such folder", str(json.parent))
    cases = {name: report.cases_of(name) for name in op or report.op_names()}
    progress, machine = Console(stderr=True), info()
    roofline = measure_roofline()
    rows = list(
        track(
            report.measure(cases, roofline),
            "measuring",
            total=sum(map(len, cases.values())),
            console=progress,
            disable=not progress.is_terminal,
        )
    )
    output = Console()
    output = output if output.is_terminal else Console(width=120)
    output.print(machine, report.table(rows), sep="\n")
    if json is not None:
        text = dumps(report.as_json(rows, roofline, dataclasses.asdict(machine)), indent=1)
        with atomic_path(json) as unfinished:
            unfinished.write_text(text)
