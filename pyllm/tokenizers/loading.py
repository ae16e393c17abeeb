"""Which loader reads a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pyllm.tokenizers.definition import TokenizerDefinition

# Files that tell which kind of tokenizer a folder or path holds.
_NOT_YET = {
    "tekken.json": "Tekken",
    "spiece.model": "SentencePiece",
    "tokenizer.model": "SentencePiece",
    "vocab.txt": "WordPiece",
    "merges.txt": "BPE of vocab.json and merges.txt",
    "vocab.json": "BPE of vocab.json and merges.txt",
}


def load_definition(
    path: Path, pattern: str | None, special_tokens: Mapping[str, int] | Iterable[str] | None
) -> TokenizerDefinition:
    """See `Tokenizer.from_file`."""
    if not path.exists():
        raise FileNotFoundError(f"path: no such file or folder: {str(path)!r}")
    file = _file_in(path) if path.is_dir() else path
    if file.name in _NOT_YET or file.suffix == ".model":
        raise ValueError(
            f"{file}: {_NOT_YET.get(file.name, 'SentencePiece')} tokenizers are not supported yet"
        )
    if file.suffix == ".tiktoken":
        from pyllm.tokenizers.tiktoken_file import load_tiktoken

        return load_tiktoken(file, pattern, special_tokens)
    if special_tokens is not None:
        raise ValueError(f"special_tokens: only for .tiktoken files; {file.name} names its own")
    if file.suffix == ".json":
        from pyllm.tokenizers.huggingface import load_tokenizer_json

        return load_tokenizer_json(file, pattern)
    if file.suffix == ".gguf":
        from pyllm.tokenizers.gguf_vocabulary import load_gguf_vocabulary

        return load_gguf_vocabulary(file, pattern)
    raise ValueError(f"path: expected a .json, .tiktoken or .gguf file, got {file.name!r}")


def _file_in(folder: Path) -> Path:
    for name in ["tokenizer.json", *_NOT_YET]:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"path: no tokenizer.json in folder {str(folder)!r}")
