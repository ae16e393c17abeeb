"""`pyllm generate`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from pyllm.cli.terminal import note_speed, read_standard_input, show, write


def generate(
    model: Annotated[
        Path, typer.Option(help="A .gguf file, or a folder with config.json and *.safetensors.")
    ],
    prompt: Annotated[str, typer.Option(help="Text to continue; '-' reads it from standard input.")] = "",
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a message: put it into the model's chat template.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to add.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above 0 samples.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Sample from the k likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens that make up this share.")
    ] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Sample from tokens at least this likely, relative to the likeliest.")
    ] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes used tokens less likely.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.")] = None,
    dtype: Annotated[str, typer.Option(help="Weights and arithmetic: auto, float32, bfloat16.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object when done.")] = False,
) -> None:
    """Continue a text, showing it as it is made.

    From standard input one newline at the end is dropped. Without a prompt the model starts from its BOS token.

    Example:
        pyllm generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt "Once upon a time" --max-new-tokens 50
        echo "What is the capital of France?" | pyllm generate --model model.gguf --prompt - --chat --json
    """
    import dataclasses
    from json import dumps

    import pyllm

    config = pyllm.GenerationConfig(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop or (),
        seed=seed,
    )
    text = read_standard_input().removesuffix("\n") if prompt == "-" else prompt
    start = time.perf_counter()
    loaded = pyllm.load(model, dtype=dtype)
    load_seconds = time.perf_counter() - start
    stream = loaded.stream([{"role": "user", "content": text}] if chat else text, config)
    timings = show(stream, quiet=json)
    if json:
        seconds = {"load_seconds": load_seconds, **dataclasses.asdict(timings)}
        print(dumps({**dataclasses.asdict(stream.completion), "timings": seconds}))
    else:
        write("\n")
        note_speed(stream, timings)
