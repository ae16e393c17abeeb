"""`pyllm tokenizer`: training and using tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli.terminal import read_standard_input

if TYPE_CHECKING:
    from pyllm import Tokenizer

# Enough for two digits behind the point, and a few seconds at most.
_COMPARED_CHARACTERS = 4_000_000


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
    tie_break: Annotated[
        str, typer.Option(help="Which of equally frequent pairs: hf, bytes or first_seen.")
    ] = "hf",
    max_memory: Annotated[
        int | None, typer.Option(help="Megabytes that training may take (default: what is available).", min=1)
    ] = None,
) -> None:
    """Train a byte-level BPE tokenizer on text and save it as tokenizer.json.

    At the end it shows how many bytes of the data's beginning a token holds, beside well-known vocabularies if
    tiktoken or Hugging Face have left some in their caches.

    Example:
        pyllm tokenizer train --data corpus.txt more/*.txt --vocab-size 8192 --out tokenizer.json
    """
    from pyllm import Tokenizer
    from pyllm.cli.progress import progress_bar
    from pyllm.data import read_pieces
    from pyllm.tokenizers.compression import well_known

    sources = data or (piece.text.encode() for piece in read_pieces([]))
    special_tokens = ["<|endoftext|>"] if special_token is None else special_token
    with progress_bar() as show:
        tokenizer = Tokenizer.train(
            sources,
            vocab_size,
            pattern=pattern,
            special_tokens=special_tokens,
            tie_break=tie_break,
            max_memory=None if max_memory is None else max_memory << 20,
            on_progress=show,
        )
    tokenizer.save(out)
    print(f"{tokenizer.vocab_size} tokens in {out}")
    print(
        _compression_table({str(out): tokenizer, **well_known()}, {"bytes per token": _beginning(data or [])})
    )


def compare(
    tokenizer: Annotated[
        list[Path], typer.Option(help="A tokenizer's file or folder; may be repeated.", metavar="PATH...")
    ],
    data: Annotated[
        list[Path],
        typer.Option(help="Text files and folders, a column each; .jsonl and .gz too.", metavar="PATH..."),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how many UTF-8 bytes of text a token holds, for several tokenizers: the more, the shorter the texts.

    Well-known vocabularies that tiktoken or Hugging Face have left in their caches stand beside them.

    Example:
        pyllm tokenizer compare --tokenizer mine.json --tokenizer cl100k.tiktoken --data english.txt code/
    """
    from json import dumps

    from pyllm import Tokenizer
    from pyllm.tokenizers.compression import well_known

    tokenizers = {**{str(path): Tokenizer.from_file(path) for path in tokenizer}, **well_known()}
    texts = {str(path): _beginning([path]) for path in data}
    if json:
        print(dumps({name: _compressions(each, texts) for name, each in tokenizers.items()}, indent=1))
    else:
        print(_compression_table(tokenizers, texts))


def _beginning(data: list[Path]) -> list[str]:
    """Up to so many characters of the data, in the pieces they come in."""
    from pyllm.data import read_pieces

    texts: list[str] = []
    size = 0
    for piece in read_pieces(data):
        texts.append(piece.text)
        size += len(piece.text)
        if size >= _COMPARED_CHARACTERS:
            break
    return texts


def _compressions(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> dict[str, float]:
    from pyllm.tokenizers import compression

    return {kind: compression(tokenizer, some) for kind, some in texts.items()}


def _compression_table(tokenizers: dict[str, Tokenizer], texts: dict[str, list[str]]) -> str:
    """Names left, numbers right-aligned under the names of the texts."""
    rows = [["tokenizer", "tokens", *texts]]
    for name, tokenizer in tokenizers.items():
        numbers = _compressions(tokenizer, texts).values()
        rows.append([name, str(tokenizer.vocab_size), *(f"{number:.2f}" for number in numbers)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


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
