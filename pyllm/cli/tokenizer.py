"""`pyllm tokenizer`: training and using tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyllm.cli.terminal import read_standard_input


def train(
    vocab_size: Annotated[int, typer.Option(help="Ids there shall be, bytes and special tokens included.")],
    out: Annotated[Path, typer.Option(help="The tokenizer.json to write, or a folder for it.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text files and folders; .jsonl and .gz too (default: Python's standard library).",
            metavar="PATH...",
        ),
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="Pretokenizer: gpt2, gpt4, o200k, llama3, qwen2, smollm or none.")
    ] = "gpt4",
    special_token: Annotated[
        list[str] | None, typer.Option(help="A special token to include; may be repeated.")
    ] = None,
) -> None:
    """Train a byte-level BPE tokenizer on text and save it as tokenizer.json.

    Example:
        pyllm tokenizer train --data corpus.txt more/*.txt --vocab-size 8192 --out tokenizer.json
    """
    from pyllm import Tokenizer
    from pyllm.cli.progress import progress_bar
    from pyllm.data import read_pieces

    sources = data or (piece.text.encode() for piece in read_pieces([]))
    special_tokens = ["<|endoftext|>"] if special_token is None else special_token
    with progress_bar() as show:
        tokenizer = Tokenizer.train(
            sources, vocab_size, pattern=pattern, special_tokens=special_tokens, on_progress=show
        )
    tokenizer.save(out)
    print(f"{tokenizer.vocab_size} tokens in {out}")


def encode(
    tokenizer: Annotated[
        Path, typer.Option(help="tokenizer.json, .tiktoken or .gguf file, or a folder with one.")
    ],
    text: Annotated[
        str | None, typer.Option(help="Text to encode (default: --data, or standard input).")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="UTF-8 file to encode.")] = None,
    add_special_tokens: Annotated[
        bool,
        typer.Option("--add-special-tokens", help="Add what the model expects around a text (BOS, EOS)."),
    ] = False,
    allow_special: Annotated[
        bool,
        typer.Option("--allow-special", help="Special tokens in the text become their ids, not plain text."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Print the token ids of a text.

    Example:
        pyllm tokenizer encode --tokenizer tokenizer.json --text "Hello world"
        pyllm tokenizer encode --tokenizer model.gguf --data book.txt --json > ids.json
    """
    from json import dumps

    from pyllm import Tokenizer

    if text is not None and data is not None:
        raise ValueError("--text and --data exclude each other")
    loaded = Tokenizer.from_file(tokenizer)
    if text is None:
        text = read_standard_input() if data is None else _read(data)
    ids = loaded.encode(
        text,
        add_special_tokens=add_special_tokens,
        allowed_special="all" if allow_special else (),
        disallowed_special=(),
    )
    print(dumps(ids) if json else " ".join(map(str, ids)))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--data: {str(path)!r} must be UTF-8 text: {error}") from None
