"""`pyllm bench`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    op: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ops to measure; all without one. `roofline` measures the machine only, `tokenizer` (on its own) the "
            "tokenizer beside other libraries.",
            metavar="[OP]...",
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All shapes instead of a few; an hour or so.")] = False,
    runs: Annotated[int, typer.Option("--runs", help="Measure everything so many times over.", min=1)] = 1,
    isa: Annotated[
        str | None,
        typer.Option("--isa", help="Hold pyllm and its rivals to a level: scalar, avx2 or avx512."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts", help="Tokenizer: a folder of english.txt, python.txt, chinese.txt and so on."
        ),
    ] = None,
    only: Annotated[
        str, typer.Option("--only", help="Tokenizer: cases with this in their name, as 'long text, cl100k'.")
    ] = "",
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
        pyllm bench tokenizer --texts corpora --only cl100k
    """
    from pyllm.bench import levels

    if json is not None and not (json.is_dir() or json.parent.is_dir()):
        raise FileNotFoundError(2, "No such folder", str(json.parent))
    named = op or []
    if "tokenizer" in named and len(named) > 1:
        raise ValueError("op: the tokenizer is measured on its own, got " + ", ".join(named))
    if isa is not None:
        options = {"--texts": texts, "--only": only, "--json": json}
        given = [part for name, value in options.items() if value for part in (name, str(value))]
        arguments = [
            "bench",
            *named,
            "--runs",
            str(runs),
            "--isa",
            isa,
            *(["--full"] if full else []),
            *given,
        ]
        levels.restart_at(isa, arguments)
    if "tokenizer" in named:
        _bench_tokenizer(texts, only, full=full, runs=runs, json=json)
    else:
        _bench_ops(named, full=full, runs=runs, json=json)


def _bench_ops(named: list[str], *, full: bool, runs: int, json: Path | None) -> None:
    import pyllm
    from pyllm.bench import conditions, report, roofline

    cases = {
        name: report.cases_of(name, full=full) for name in named or report.op_names() if name != "roofline"
    }
    pyllm.tune_allocator()
    with _progress(runs * sum(map(len, cases.values()))) as advance:
        rows, roofs = report.measure_runs(cases, runs, advance)
    _show(pyllm.info(), roofline.table(roofs), *([report.table(rows)] if rows else []))
    gathered = conditions.gather(runs=runs, full=full)
    _save(json, conditions.file_name(roofs), report.as_json(rows, roofs, gathered))


def _bench_tokenizer(texts: Path | None, only: str, *, full: bool, runs: int, json: Path | None) -> None:
    from pyllm.bench.tokenizer import report

    cases = report.cases(texts, full=full, only=only)
    with _progress(runs * len(cases)) as advance:
        rows = report.measure_runs(cases, runs, advance)
    _show(report.table(rows), *report.absences(rows))
    _save(json, report.file_name(), report.as_json(rows, report.conditions(runs=runs, full=full)))


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[object], None]]:
    """A bar on a terminal; what it gives is called after every row."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=total)
        yield lambda row: progress.advance(task)


def _show(*parts: Any) -> None:
    from rich.console import Console

    output = Console()
    output = output if output.is_terminal else Console(width=140)
    output.print(*parts, sep="\n")


def _save(json: Path | None, name: str, measured: dict[str, Any]) -> None:
    """In the file, or under the name in the folder."""
    from json import dumps

    from pyllm.checkpoints.atomic import atomic_path

    if json is None:
        return
    with atomic_path(json / name if json.is_dir() else json) as unfinished:
        unfinished.write_text(dumps(measured, indent=1) + "\n")
