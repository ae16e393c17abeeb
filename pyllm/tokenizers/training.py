"""Trains a byte-level BPE: texts -> counted pieces -> merges, both in the C++ core."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pyllm import _tokenizers
from pyllm.data.sources import read_pieces
from pyllm.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    AddedToken,
    BytePairs,
    TokenizerDefinition,
    pattern_step,
)
from pyllm.tokenizers.huggingface import END_OF_TEXT
from pyllm.tokenizers.patterns import PATTERNS, canonical_pattern

# on_progress(phase, done, total): "reading" counts characters and does not know its total (0), "merging" counts tokens.
Progress = Callable[[str, int, int], None]
TextSource = str | os.PathLike[str] | bytes
_BATCH_CHARACTERS = 1 << 23
# Where every grammar but "none" ends a piece, so that a document larger than memory can be fed in parts.
_SAFE_CUT = re.compile(r"[!-~]\n[A-Za-z]")
_FILE_NAME = re.compile(r"\S+\.(txt|md|rst|py|jsonl|gz)", re.IGNORECASE)
_BYTES = 256


def train_byte_pairs(
    sources: TextSource | Iterable[TextSource],
    vocab_size: int,
    *,
    pattern: str,
    special_tokens: Sequence[str],
    tie_break: str,
    num_threads: int,
    on_progress: Progress | None,
) -> TokenizerDefinition:
    """See `Tokenizer.train`."""
    pattern = canonical_pattern(pattern)
    names = _check_special_tokens(special_tokens)
    if tie_break != "hf":
        raise ValueError(f"tie_break: expected 'hf', got {tie_break!r}")
    least = _BYTES + len(names)
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int):
        raise TypeError(f"vocab_size: expected int, got {type(vocab_size).__name__}")
    if vocab_size < least:
        raise ValueError(
            f"vocab_size: expected at least {least} (bytes and special tokens), got {vocab_size}"
        )

    training = _tokenizers.Training(PATTERNS[pattern].grammar, names)
    characters = 0
    for batch in _batches(_texts(sources, whole=pattern == "none")):
        training.add(batch, num_threads)
        characters += sum(map(len, batch))
        if on_progress:
            on_progress("reading", characters, 0)
    if characters == 0:
        raise ValueError("files_or_texts: no text in it")

    def on_merges(done: int, total: int) -> None:
        if on_progress:
            on_progress("merging", done + len(names), total + len(names))

    tokens, merges = training.run(vocab_size - len(names), on_merges)
    added = [AddedToken(name, i) for i, name in enumerate(names)]
    return TokenizerDefinition(
        tokens=[*(name.encode() for name in names), *tokens],
        model=BytePairs(merges + np.uint32(len(names))),
        pre_tokenizers=(pattern_step(pattern),),
        decoders=(BYTE_LEVEL_DECODER,),
        added_tokens=added,
        eos_token=END_OF_TEXT if END_OF_TEXT in names else None,
    )


def _check_special_tokens(names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"special_tokens: expected a sequence of str, got the str {names!r}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"special_tokens: expected str, got {type(name).__name__}")
    if "" in names or len(set(names)) != len(names):
        raise ValueError(f"special_tokens: expected different, non-empty names, got {list(names)}")
    if any(len(name.encode()) == 1 for name in names):
        raise ValueError(f"special_tokens: one byte is a token already, got {list(names)}")
    return list(names)


def _texts(sources: TextSource | Iterable[TextSource], whole: bool) -> Iterator[str | bytes]:
    """The documents of every source; parts of a file that is one long document join to it."""
    if isinstance(sources, str) and "\n" not in sources:
        sources = Path(sources)  # nobody trains on one line: it is a path, even if nothing is there
    items = [sources] if isinstance(sources, (str, bytes, os.PathLike)) else sources
    for item in items:
        if isinstance(item, os.PathLike) or (isinstance(item, str) and _is_file_name(item)):
            yield from _documents(Path(item), whole)
        elif isinstance(item, (str, bytes)):
            yield item
        else:
            raise TypeError(f"files_or_texts: expected str, bytes or paths, got {type(item).__name__}")


def _is_file_name(text: str) -> bool:
    """A str is a path if something has that name, or if it looks like a text file's name (a typo is no text)."""
    if not text or len(text) > 4096 or "\n" in text or "\0" in text:
        return False
    return _FILE_NAME.fullmatch(text) is not None or _exists(text)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _documents(path: Path, whole: bool) -> Iterator[str]:
    parts: list[str] = []
    size = 0
    for piece in read_pieces([path]):
        parts.append(piece.text)
        size += len(piece.text)
        if piece.ends_document or (size >= _BATCH_CHARACTERS and not whole):
            text = "".join(parts)
            cut = len(text) if piece.ends_document else _last_safe_cut(text)
            if cut:
                yield text[:cut]
            parts, size = [text[cut:]], 0


def _last_safe_cut(text: str) -> int:
    """0 if there is none."""
    at = text.rfind("\n")
    while at > 0 and not _SAFE_CUT.match(text, at - 1):
        at = text.rfind("\n", 0, at)
    return at + 1 if at > 0 else 0


def _batches(texts: Iterator[str | bytes]) -> Iterator[list[str | bytes]]:
    batch: list[str | bytes] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
