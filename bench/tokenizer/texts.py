"""Texts to encode, by language: what a folder holds, or what every machine has."""

from __future__ import annotations

import gzip
import json
import os
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

LANGUAGES = ("English", "Python", "Chinese", "Japanese", "mixed")
VARIABLE = "PYLLM_BENCH_TEXTS"
_MANUAL_PAGES = Path("/usr/share/man/zh_CN")  # Debian's manpages-zh


def find(folder: Path | None, size: int) -> dict[str, str]:
    """The first `size` bytes of text in each language that there is text for.

    folder: holds english.txt, python.txt and so on; or austen/*.txt (English), zh_classics/*.json and
        sft_demo/alpaca_zh_demo.json (Chinese), sentencepiece/wagahaiwa_nekodearu.txt (Japanese), udhr/*.zip (mixed).
        None: the folder that the environment variable PYLLM_BENCH_TEXTS names, if it is set. Languages that it lacks
        are taken from Python's standard library and manual pages, where they have them.

    Raises FileNotFoundError if there is no such folder.
    """
    if folder is None and os.environ.get(VARIABLE):
        folder = Path(os.environ[VARIABLE])
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(2, "No such folder", str(folder))
    found = {language: _start(_parts(language, folder), size) for language in LANGUAGES}
    return {language: text for language, text in found.items() if text}


def _start(parts: Iterator[str], size: int) -> str:
    """As many of the parts as fill `size` bytes, cut there at a character's end."""
    kept, length = [], 0
    for part in parts:
        kept.append(part.encode("utf-8", "replace"))
        length += len(kept[-1])
        if length >= size:
            break
    return b"".join(kept)[:size].decode("utf-8", "ignore")


def _parts(language: str, folder: Path | None) -> Iterator[str]:
    if folder is not None:
        named = folder / f"{language.lower()}.txt"
        if named.is_file():
            yield named.read_text(encoding="utf-8")
            return
        yield from _of_corpora(language, folder)
    if language == "Python":
        yield from _standard_library()
    elif language == "Chinese":
        yield from _manual_pages()
    elif language == "English":
        from pydoc_data.topics import topics

        yield from topics.values()


def _of_corpora(language: str, folder: Path) -> Iterator[str]:
    if language == "English":
        yield from _text_files(folder, "austen/*.txt")
    elif language == "Japanese":
        yield from _text_files(folder, "sentencepiece/wagahaiwa_nekodearu.txt")
    elif language == "Chinese":
        yield from _alternating(_manual_pages(), _chinese_json(folder))
    elif language == "mixed":
        yield from _alternating(_declarations(folder), _standard_library())


def _text_files(folder: Path, pattern: str) -> Iterator[str]:
    for path in sorted(folder.glob(pattern)):
        yield path.read_text(encoding="utf-8")


def _chinese_json(folder: Path) -> Iterator[str]:
    """Every string of the Chinese corpora that are kept as JSON."""
    for path in [folder / "sft_demo" / "alpaca_zh_demo.json", *sorted(folder.glob("zh_classics/*.json"))]:
        if path.is_file():
            yield "\n".join(_strings(json.loads(path.read_text(encoding="utf-8"))))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _declarations(folder: Path) -> Iterator[str]:
    """The Universal Declaration of Human Rights in many languages."""
    for path in sorted(folder.glob("udhr/*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".txt"):
                    yield archive.read(name).decode("utf-8", "replace")


def _manual_pages() -> Iterator[str]:
    for path in sorted(_MANUAL_PAGES.glob("man*/*.gz")):
        yield gzip.decompress(path.read_bytes()).decode("utf-8", "replace")


def _standard_library() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")


def _alternating(*sources: Iterator[str]) -> Iterator[str]:
    """One part of each in turn, for as long as all have any, then the rest."""
    waiting = list(sources)
    while waiting:
        for source in list(waiting):
            part = next(source, None)
            if part is None:
                waiting.remove(source)
            else:
                yield part
