"""Which loader reads a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyllm.tokenizers.definition import TokenizerDefinition
from pyllm.tokenizers.own_file import SUFFIX, is_own_file, load_own_file

# Files that hold a folder's tokenizer, best first.
_NAMES = (
    *("tokenizer.json", "tekken.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
    *("vocab.json", "encoder.json", "vocab.txt"),
)
_PAIRS = ("vocab.json", "merges.txt", "encoder.json", "vocab.bpe")
# The first line of a .tiktoken file; Llama 3 calls such a file tokenizer.model.
_RANKED_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def load_definition(
    path: Path, pattern: str | None, special_tokens: Mapping[str, int] | Iterable[str] | None
) -> TokenizerDefinition:
    """See `Tokenizer.from_file`."""
    if not path.exists():
        raise FileNotFoundError(f"path: no such file or folder: {str(path)!r}")
    file = _file_in(path) if path.is_dir() else path
    if file.suffix == SUFFIX or is_own_file(file):
        if pattern is not None or special_tokens is not None:
            raise ValueError(f"pattern, special_tokens: {file.name} has its own")
        return load_own_file(file)
    if file.suffix == ".tiktoken" or (_is_model(file) and _is_ranked(file)):
        from pyllm.tokenizers.tiktoken_file import load_tiktoken

        return load_tiktoken(file, pattern, special_tokens)
    if special_tokens is not None:
        raise ValueError(f"special_tokens: only for .tiktoken files; {file.name} names its own")
    if file.name in _PAIRS:
        from pyllm.tokenizers.vocabulary_and_merges import load_vocabulary_and_merges

        return load_vocabulary_and_merges(file, pattern)
    if file.suffix == ".gguf":
        from pyllm.tokenizers.gguf_vocabulary import load_gguf_vocabulary

        return load_gguf_vocabulary(file, pattern)
    if file.suffix == ".json" and not file.name.startswith("tekken"):
        from pyllm.tokenizers.huggingface import load_tokenizer_json

        return load_tokenizer_json(file, pattern)
    return _load_without_pattern(file, pattern)


def _load_without_pattern(file: Path, pattern: str | None) -> TokenizerDefinition:
    if pattern is not None:
        raise ValueError(f"pattern: {file.name} has its own")
    if file.suffix == ".json":
        from pyllm.tokenizers.tekken_file import load_tekken

        return load_tekken(file)
    if _is_model(file):
        from pyllm.tokenizers.sentencepiece_file import load_sentencepiece

        return load_sentencepiece(file)
    if file.suffix == ".txt":
        from pyllm.tokenizers.word_piece_file import load_word_piece

        return load_word_piece(file)
    names = f".json, .model, .tiktoken, .gguf, .txt or {SUFFIX}"
    raise ValueError(f"path: expected a file that is named {names}, got {str(file)!r}")


def _is_model(file: Path) -> bool:
    """*.model, or *.model.v3 as Mistral writes it."""
    return ".model" in file.suffixes


def _is_ranked(file: Path) -> bool:
    with file.open("rb") as stream:
        return _RANKED_LINE.match(stream.read(4096)) is not None


def _file_in(folder: Path) -> Path:
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    own = sorted(folder.glob(f"*{SUFFIX}"))
    if len(own) == 1:
        return own[0]
    raise ValueError(f"path: no tokenizer.json in folder {str(folder)!r}, nor another tokenizer's file")
