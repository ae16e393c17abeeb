"""`pyllm eval`: measuring models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def perplexity(
    model: Annotated[
        Path, typer.Option(help="A .gguf file, or a folder with config.json and *.safetensors.")
    ],
    data: Annotated[Path, typer.Option(help="Text file; .jsonl and .gz are understood.")],
    context: Annotated[
        int | None, typer.Option(help="Window in tokens (default: 1024, or the model's own if shorter).")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens from one window to the next (default: half the context).")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Use only the first tokens of the text.")] = None,
    dtype: Annotated[str, typer.Option(help="Weights and arithmetic.")] = "float32",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how well a model predicts a text: perplexity by a sliding window.

    Special tokens that the text spells out are taken as plain text; documents are joined by an empty line.

    Example:
        pyllm eval perplexity --model SmolLM2-135M-Instruct.Q4_1.gguf --data wiki.txt --context 1024 --stride 512
    """
    import dataclasses
    from json import dumps

    import pyllm
    from pyllm.cli.progress import progress_bar
    from pyllm.evaluation import perplexity as measure

    text = read_text(data)
    if max_tokens is not None and max_tokens < 2:
        raise ValueError(f"--max-tokens must be at least 2, got {max_tokens}")
    loaded = pyllm.load(model, dtype=dtype)
    if loaded.tokenizer is None:
        raise ValueError(f"--model: {str(model)!r} has no tokenizer")
    ids = loaded.tokenizer.encode(text, add_special_tokens=True, disallowed_special=())[:max_tokens]
    with progress_bar() as show:
        result = measure(loaded.network, ids, context=context, stride=stride, on_progress=show)
    if json:
        print(dumps(dataclasses.asdict(result)))
        return
    print(f"perplexity {result.perplexity:.4f}")
    print(
        f"{result.num_predicted} of {result.num_tokens} tokens predicted, mean loss {result.mean_nll:.6f} nats, "
        f"context {result.context}, stride {result.stride}"
    )


def read_text(path: Path) -> str:
    """The documents of a file, joined by empty lines."""
    from pyllm.data import read_pieces

    parts: list[str] = []
    between = ""
    for piece in read_pieces([path]):
        parts += [between, piece.text]
        between = "\n\n" if piece.ends_document else ""
    if not parts:
        raise ValueError(f"--data: {str(path)!r} has no text")
    return "".join(parts)
