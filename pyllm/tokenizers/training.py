"""Trains a byte-level BPE: texts -> counted pieces -> merges, both in the C++ core.

plain text files    read, cut and counted in C++, on all threads
.gz, .jsonl         decompressed and parsed one block ahead by a thread of its own
texts               in batches, as the iterator gives them; nothing is kept
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pyllm import _tokenizers
from pyllm.data.sources import (
    expand_paths,
    is_jsonl,
    is_plain_text,
    read_ahead,
    read_blocks,
    read_jsonl_texts,
)
from pyllm.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    AddedToken,
    BytePairs,
    TokenizerDefinition,
    pattern_step,
)
from pyllm.tokenizers.huggingface import END_OF_TEXT
from pyllm.tokenizers.patterns import PATTERNS, canonical_pattern

# on_progress(phase, done, total): "reading" counts bytes and does not know its total (0), "merging" counts tokens.
Progress = Callable[[str, int, int], None]
TextSource = str | os.PathLike[str] | bytes
TextSources = TextSource | Iterable[TextSource] | Mapping[str, int] | Mapping[bytes, int]
TIE_BREAKS = ("hf", "bytes", "first_seen")
_BATCH_BYTES = 1 << 23
_FILE_NAME = re.compile(r"\S+\.(txt|md|rst|py|jsonl|gz)", re.IGNORECASE)
_BYTES = 256
_MOST_TOKENS = (1 << 24) - 1


def train_byte_pairs(
    sources: TextSources,
    vocab_size: int,
    *,
    pattern: str,
    special_tokens: Sequence[str],
    tie_break: str,
    num_threads: int,
    max_memory: int | None,
    on_progress: Progress | None,
) -> TokenizerDefinition:
    """See `Tokenizer.train`."""
    pattern = canonical_pattern(pattern)
    names = _check_special_tokens(special_tokens)
    if tie_break not in TIE_BREAKS:
        raise ValueError(f"tie_break: expected one of {', '.join(TIE_BREAKS)}, got {tie_break!r}")
    _check_number("vocab_size", vocab_size, _BYTES + len(names), _MOST_TOKENS, "bytes and special tokens")
    if max_memory is None:
        max_memory = available_memory()
    else:
        _check_number("max_memory", max_memory, 1 << 20, 1 << 62, "a megabyte")

    training = _tokenizers.Training(PATTERNS[pattern].grammar, names, tie_break, max_memory)
    report = on_progress or _no_progress
    _Feeder(training, num_threads, report).feed(sources)
    if training.bytes == 0:
        raise ValueError("files_or_texts: no text in it")

    def on_merges(done: int, total: int) -> None:
        report("merging", done + len(names), total + len(names))

    tokens, merges = training.run(vocab_size - len(names), on_merges)
    return TokenizerDefinition(
        tokens=[*(name.encode() for name in names), *tokens],
        model=BytePairs(_different(merges, keep_last=tie_break == "hf") + np.uint32(len(names))),
        pre_tokenizers=(pattern_step(pattern),),
        decoders=(BYTE_LEVEL_DECODER,),
        added_tokens=[AddedToken(name, i) for i, name in enumerate(names)],
        eos_token=END_OF_TEXT if END_OF_TEXT in names else None,
    )


def available_memory() -> int | None:
    """Bytes that this process could take without swapping, as far as Linux says; None elsewhere."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    limits = [int(found[1]) << 10] if found else []
    limits += [int(limit) for limit in [_read("/sys/fs/cgroup/memory.max").strip()] if limit.isdigit()]
    return min(limits, default=None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _no_progress(phase: str, done: int, total: int) -> None:
    pass


def _check_number(name: str, value: int, least: int, most: int, why: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected int, got {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least} ({why}) to {most}, got {value}")


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


def _different(merges: np.ndarray, keep_last: bool) -> np.ndarray:
    """Without repeated pairs: a file holds each once. tokenizers ranks one that it made twice by the last time."""
    keys = merges[:, 0].astype(np.uint64) << np.uint64(32) | merges[:, 1]
    order = slice(None, None, -1 if keep_last else 1)
    _, first = np.unique(keys[order], return_index=True)
    kept = np.sort(len(merges) - 1 - first if keep_last else first)
    return merges[kept]


class _Feeder:
    """Brings sources of every kind to the C++ core."""

    def __init__(self, training: _tokenizers.Training, num_threads: int, report: Progress) -> None:
        self._training = training
        self._num_threads = num_threads
        self._report = report

    def feed(self, sources: TextSources) -> None:
        if isinstance(sources, Mapping):
            self._feed_counts(sources)
            return
        if isinstance(sources, str) and "\n" not in sources:
            sources = Path(sources)  # nobody trains on one line: it is a path, even if nothing is there
        items = [sources] if isinstance(sources, (str, bytes, os.PathLike)) else sources
        for is_file, group in itertools.groupby(items, _is_file):
            if is_file:
                self._feed_files(Path(item) for item in group)  # type: ignore[arg-type]
            else:
                self._feed_texts(group)  # type: ignore[arg-type]

    def _feed_counts(self, counts: Mapping[str, int] | Mapping[bytes, int]) -> None:
        for text, count in counts.items():
            if not isinstance(text, (str, bytes)):
                raise TypeError(f"files_or_texts: expected texts with counts, got {type(text).__name__}")
            _check_number("files_or_texts: count", count, 0, (1 << 63) - 1, "never")
            if count:
                self._training.add([text], count, self._num_threads)
        self._report("reading", self._training.bytes, 0)

    def _feed_texts(self, texts: Iterable[str | bytes]) -> None:
        for batch in _batches(texts):
            self._training.add(batch, 1, self._num_threads)
            self._report("reading", self._training.bytes, 0)

    def _feed_files(self, paths: Iterable[Path]) -> None:
        for plain, group in itertools.groupby(_files(paths), is_plain_text):
            if plain:
                self._feed_plain(list(group))
                continue
            for file in group:
                if is_jsonl(file):
                    self._feed_texts_ahead(file)
                else:
                    self._feed_blocks(file)

    def _feed_plain(self, files: list[Path]) -> None:
        for file in files:
            file.open("rb").close()  # Python's own exception for one that cannot be read
        before = self._training.bytes
        self._training.add_files(
            [os.fsencode(file) for file in files],
            self._num_threads,
            lambda done: self._report("reading", before + done, 0),
        )

    def _feed_texts_ahead(self, file: Path) -> None:
        for batch in read_ahead(_batches(read_jsonl_texts(file))):
            self._training.add(batch, 1, self._num_threads)
            self._report("reading", self._training.bytes, 0)

    def _feed_blocks(self, file: Path) -> None:
        for block in read_ahead(read_blocks(file, _BATCH_BYTES)):
            self._training.add_block(block, False, str(file), self._num_threads)
            self._report("reading", self._training.bytes, 0)
        self._training.add_block(b"", True, str(file), self._num_threads)
        self._report("reading", self._training.bytes, 0)


def _is_file(item: TextSource) -> bool:
    """A str is a path if something has that name, or if it looks like a text file's name (a typo is no text)."""
    if isinstance(item, os.PathLike):
        return True
    if not isinstance(item, (str, bytes)):
        raise TypeError(f"files_or_texts: expected str, bytes or paths, got {type(item).__name__}")
    if isinstance(item, bytes) or not item or len(item) > 4096 or "\n" in item or "\0" in item:
        return False
    return _FILE_NAME.fullmatch(item) is not None or _exists(item)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield from expand_paths([path])


def _batches(texts: Iterable[str | bytes]) -> Iterator[list[str | bytes]]:
    batch: list[str | bytes] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
