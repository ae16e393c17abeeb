"""One text at a time: tokens per second of the prompt, and of each new token, ours beside other libraries.

    python -m pyllm.bench.end_to_end.generation --model SmolLM2-135M-Instruct.Q4_1.gguf
    python -m pyllm.bench.end_to_end.generation --model smollm2-bf16 --prompt-tokens 4096

A .gguf file is read by llama.cpp and OpenVINO GenAI, a folder by transformers and CTranslate2 (`generators`). Every
contender has a process of its own; they take turns. A prompt's speed is that of one call for a single new token, the
speed of decoding what further tokens of a short prompt take.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

SHORT_PROMPT = 8


@dataclass(frozen=True)
class Measured:
    """A contender's tokens per second, of the prompt and of what follows; medians over rounds."""

    contender: str
    prefill: float
    decode: float


def main(
    model: Annotated[Path, typer.Option(help="A .gguf file, or a folder of safetensors.")],
    prompt_tokens: Annotated[int, typer.Option(min=SHORT_PROMPT)] = 512,
    new_tokens: Annotated[int, typer.Option(min=2)] = 64,
    threads: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    contender: Annotated[list[str] | None, typer.Option(help="Some of them; all without.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also save every number.", metavar="FILE")] = None,
) -> None:
    """Prints a row for each contender: tokens per second of the prompt, and of decoding."""
    from rich.console import Console

    from . import generators
    from .saving import save

    names = [name for name in generators.able(model) if name != generators.LLAMA_CPP_APART]
    names = [name for name in names if contender is None or name in contender]
    rows = measure(names, model, prompt_tokens, new_tokens, rounds, threads)
    output = Console()
    output = output if output.is_terminal else Console(width=120)
    output.print(table(rows, f"{model.name}, {prompt_tokens} + {new_tokens} tokens, {threads} threads"))
    if json is not None:
        settings = {
            "model": model.name,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "rounds": rounds,
        }
        save(json, [asdict(row) for row in rows], settings)


def measure(
    names: list[str], model: Path, prompt_tokens: int, new_tokens: int, rounds: int, threads: int
) -> list[Measured]:
    """Interleaved rounds of three calls each: a prompt, a token, many tokens."""
    from .turns import in_turns

    prompt = [1000 + 7 * i % 19000 for i in range(prompt_tokens)]
    works = [[(prompt, 1)], [(prompt[:SHORT_PROMPT], 1)], [(prompt[:SHORT_PROMPT], new_tokens)]]
    timings = in_turns(names, model, works, rounds, threads)
    return [
        Measured(name, prompt_tokens / whole.median, (new_tokens - 1) / (many.median - one.median))
        for name, (whole, one, many) in timings.items()
    ]


def table(rows: list[Measured], title: str) -> Any:
    """One row per contender; x: how many times faster the first one is."""
    from rich import box
    from rich.table import Table

    shown = Table("", box=box.SIMPLE_HEAD, title=f"generation: {title}", title_justify="left")
    for column in ("prompt, tokens/s", "x", "decoding, tokens/s", "x"):
        shown.add_column(column, justify="right")
    ours = rows[0]
    for row in rows:
        shown.add_row(
            row.contender,
            f"{row.prefill:,.0f}",
            f"{ours.prefill / row.prefill:.2f}",
            f"{row.decode:.1f}",
            f"{ours.decode / row.decode:.2f}",
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
