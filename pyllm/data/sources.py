"""Reads training text: files and folders of plain text or jsonl, gzip or not, and Python's own standard
library.

Everything streams. A document longer than `PIECE_CHARACTERS` comes as several pieces cut at line ends, so
memory stays bounded however large a file is, and so that one long book can still give both training and
validation text.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

PIECE_CHARACTERS = 16_384
_BLOCK_BYTES = 1 << 20
_PROSE = {".txt", ".text", ".md", ".rst", ".tex", ".html"}
_CODE = {
    ".py",
    ".pyi",
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".cu",
    ".cuh",
    ".rs",
    ".go",
    ".js",
    ".ts",
    ".java",
    ".sh",
    ".sql",
}
TEXT_SUFFIXES = _PROSE | _CODE | {".jsonl"}
# Tests and installed packages are not the library; the codec tables and the generated help topics are data,
# not prose or code.
_SKIPPED_FOLDERS = frozenset(
    ["__pycache__", "dist-packages", "encodings", "idle_test", "pydoc_data", "site-packages", "test", "tests"]
)
_STDLIB_FILE_BYTES = range(64, 1 << 20)


_Item = TypeVar("_Item")


class Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    ends_document: bool
    origin: str


def read_pieces(paths: Sequence[str | Path]) -> Iterator[Piece]:
    """Pieces of every document under `paths`, in a fixed order; no paths means Python's standard library.

    A file is one document, unless it is jsonl (`.jsonl`, `.jsonl.gz`), where every line is an object with a
    string "text". Folders are walked in sorted order for files with a known text suffix. Empty documents are
    left out.

    Raises FileNotFoundError for a path that does not exist, and ValueError for a folder without text files,
    undecodable text, a broken gzip stream or a bad jsonl line; the message names the file, and the line or
    byte where it has one.
    """
    if not paths:
        yield from _standard_library_pieces()
    for file in expand_paths(paths):
        yield from _read_file(file)


def expand_paths(paths: Iterable[str | Path]) -> list[Path]:
    """The files that `paths` stand for: files as given, folders as their text files in sorted order."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = [file for file in _walk(path) if _text_suffix(file) in TEXT_SUFFIXES]
            if not found:
                raise ValueError(
                    f"data: no text files (.txt, .md, .py, .jsonl, ..., also .gz) in folder {str(path)!r}"
                )
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"data: no such file or folder: {str(path)!r}")
    return files


def standard_library_files() -> list[Path]:
    """Source files of the running Python's standard library: pure text that every machine has."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [file for file in _walk(folder, _SKIPPED_FOLDERS) if file.suffix == ".py"]
    return [file for file in files if file.stat().st_size in _STDLIB_FILE_BYTES]


def is_plain_text(file: Path) -> bool:
    """Whether the file is one document as it lies on disk."""
    return file.suffix.lower() != ".gz" and not is_jsonl(file)


def is_jsonl(file: Path) -> bool:
    return _text_suffix(file) == ".jsonl"


def read_jsonl_texts(file: Path) -> Iterator[str]:
    """The "text" of every line of a .jsonl or .jsonl.gz file. Raises ValueError as `read_pieces` does."""
    with _open(file) as stream:
        yield from _jsonl_texts(stream, str(file))


def read_blocks(file: Path, size: int) -> Iterator[bytes]:
    """The bytes of a file, decompressed if its name ends in .gz, `size` at a time."""
    with _open(file) as stream:
        while block := stream.read(size):
            yield block


def read_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items; a thread of its own makes the next one meanwhile. It ends with the iteration."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def _standard_library_pieces() -> Iterator[Piece]:
    for file in standard_library_files():
        try:
            pieces = list(_read_file(file))
        except (ValueError, OSError):
            continue  # lib2to3 and friends keep files in other encodings on purpose
        yield from pieces


def _walk(folder: Path, skipped: frozenset[str] = frozenset()) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skipped)
        yield from (Path(root, name) for name in sorted(names))


def _text_suffix(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


@contextmanager
def _open(file: Path) -> Iterator[BinaryIO]:
    """A stream of the file's bytes, decompressed if its name ends in .gz; a broken one becomes a ValueError."""
    compressed = file.suffix.lower() == ".gz"
    try:
        with gzip.open(file) if compressed else file.open("rb") as stream:
            yield stream  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"data: {str(file)!r} is not a complete gzip file: {error}") from error


def _read_file(file: Path) -> Iterator[Piece]:
    read = _read_jsonl if is_jsonl(file) else _read_text
    with _open(file) as stream:
        yield from read(stream, str(file))


def _read_text(stream: BinaryIO, origin: str) -> Iterator[Piece]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    text, position = "", 0
    while True:
        block = stream.read(_BLOCK_BYTES)
        held = len(decoder.getstate()[0])
        try:
            text += decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            byte = position - held + error.start
            raise ValueError(f"data: {origin!r} is not UTF-8 text (byte {byte}: {error.reason})") from error
        position += len(block)
        if not block:
            break
        *whole, text = cut(text)
        yield from (Piece(part, False, origin) for part in whole)
    *whole, text = cut(text)
    yield from (Piece(part, False, origin) for part in whole)
    if text:
        yield Piece(text, True, origin)


def _read_jsonl(stream: BinaryIO, origin: str) -> Iterator[Piece]:
    for text in _jsonl_texts(stream, origin):
        *whole, last = cut(text)
        yield from (Piece(part, False, origin) for part in whole)
        if last:
            yield Piece(last, True, origin)


def _jsonl_texts(stream: BinaryIO, origin: str) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield _jsonl_text(line, f"data: {origin!r} line {number}")


def _jsonl_text(line: bytes, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'{where}: expected an object with a string "text"')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: the text has a lone surrogate at character {error.start}") from error
    return text


def cut(text: str, limit: int = PIECE_CHARACTERS) -> list[str]:
    """Splits `text` into parts of at most `limit` characters, after a line end or before a space where there is one."""
    parts, start = [], 0
    while len(text) - start > limit:
        middle, end = start + limit // 2, start + limit
        border = text.rfind("\n", middle, end) + 1 or text.rfind(" ", middle, end)
        end = border if border > middle else end
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]
