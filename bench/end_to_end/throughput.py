"""Tokens per second of many requests of mixed length on one GGUF file: ours beside llama.cpp and OpenVINO GenAI.

    python -m pyllm.bench.end_to_end.throughput --model SmolLM2-135M-Instruct.Q4_1.gguf

All requests are there at the start and decode greedily, each to a length of its own. Every contender puts what decodes
and as much of the prompts as fits into steps of at most 512 tokens, on the same number of threads. Each has a process
of its own; they take turns.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import typer

from . import generators
from .turns import in_turns


def main(
    model: Annotated[Path, typer.Option(help="A .gguf file.")],
    requests: Annotated[int, typer.Option(min=1)] = 32,
    longest_prompt: Annotated[int, typer.Option(min=8)] = 400,
    most_new_tokens: Annotated[int, typer.Option(min=4)] = 128,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Prints a line for each contender: new tokens, and all tokens, per second."""
    work = workload(requests, longest_prompt, most_new_tokens)
    read, made = sum(len(prompt) for prompt, _ in work), sum(count for _, count in work)
    print(f"{requests} requests: {read} prompt tokens, {made} new ones; {threads} threads, {rounds} rounds")
    names = [name for name in generators.able(model) if name in generators.SERVERS]
    for name, (timing,) in in_turns(names, model, [work], rounds, threads).items():
        spread = f"{timing.lower:.2f} to {timing.upper:.2f} s"
        per_second = f"{made / timing.median:8.1f} new tokens/s {(read + made) / timing.median:8.1f} tokens/s"
        print(f"{name:26} {per_second}  {spread}")


def workload(requests: int, longest_prompt: int, most_new_tokens: int) -> generators.Workload:
    """Random prompts of 8 to `longest_prompt` tokens, 4 to `most_new_tokens` new tokens each; always the same."""
    chance = random.Random(0)
    return [
        (
            [chance.randrange(1000, 20000) for _ in range(chance.randint(8, longest_prompt))],
            chance.randint(4, most_new_tokens),
        )
        for _ in range(requests)
    ]


if __name__ == "__main__":
    typer.run(main)
