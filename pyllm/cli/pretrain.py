"""`pyllm pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    out: Annotated[
        Path, typer.Option(help="Folder for the model, its checkpoints, metrics.jsonl and loss.png.")
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Text files and folders, .jsonl, .gz; none: Python's standard library."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer file; none: trains one of 8,192 tokens on the data.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Model shapes: tiny, demo, ... (default demo).")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with any of the settings, and [model] and [training] tables."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; none: one pass over the data.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Instead of --steps: as many steps as fit, fixed after timing a few.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step (default 4).")] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens per row (default 256).")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same model (default 42).")] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints (default: a tenth of the steps).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out; the other options must be the same.")
    ] = False,
) -> None:
    """Train a language model from nothing on text.

    --out ends up as a folder that `pyllm generate` and transformers load. A run that was stopped continues with the
    same command and --resume, and ends in the same bits.

    Example:
        pyllm pretrain --data books/ notes.jsonl.gz --out my-model --steps 2000
        pyllm pretrain --out stdlib-model --max-seconds 90
    """
    from pyllm.training.pretraining import describe, pretrain
    from pyllm.training.pretraining_config import PretrainingConfig, read_config_file

    flags = {
        "out": str(out),
        "data": [str(path) for path in data] if data else None,
        "tokenizer": str(tokenizer) if tokenizer else None,
        "preset": preset,
        "steps": steps,
        "max_seconds": max_seconds,
        "batch_size": batch_size,
        "sequence_length": seq_len,
        "seed": seed,
        "save_every": save_every,
    }
    settings = read_config_file(config) if config else {}
    given = {name: value for name, value in flags.items() if value is not None}
    print(describe(pretrain(PretrainingConfig(**{**settings, **given}), resume=resume)))
