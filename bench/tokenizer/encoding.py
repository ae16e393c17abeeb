"""Encoding: long texts, the first one of a process, many small ones, several threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

from . import fresh_process
from .case import Call, Case, calls_of, ids
from .contenders import OURS, THREADS, Contender, loaded
from .vocabularies import BYTE_LEVEL, OTHERS

SMALL_TEXT = 100  # bytes
_DOCUMENT = 20_000  # characters: what a thread gets at a time


def cases(texts: Mapping[str, str]) -> Iterator[Case]:
    """Every encoding case on the texts (language -> text)."""
    for vocabulary in (*BYTE_LEVEL, *OTHERS):
        for language in texts:
            yield _case("long text", vocabulary, language, texts, _long)
    for vocabulary in BYTE_LEVEL:
        for language, text in texts.items():
            build = functools.partial(fresh_process.calls, vocabulary, text)
            name, size = f"{vocabulary}, {language}", len(text.encode())
            yield Case("first call", name, size, build, lambda reported: reported.answer, in_processes=True)
    for vocabulary in BYTE_LEVEL:
        for language in texts:
            yield _case("small texts to lists", vocabulary, language, texts, _to_lists)
            yield _case("small texts to numpy", vocabulary, language, texts, _to_numpy)
            yield _threads(vocabulary, language, texts[language], _DOCUMENT, "documents")
            yield _threads(vocabulary, language, texts[language], len(texts[language]), "one text")


def small_texts(text: str, size: int = SMALL_TEXT) -> list[str]:
    """The text in parts of about `size` bytes."""
    bytes_per_character = len(text.encode()) / max(1, len(text))
    length = max(1, round(size / bytes_per_character))
    return [text[at : at + length] for at in range(0, len(text), length)]


def _case(
    task: str,
    vocabulary: str,
    language: str,
    texts: Mapping[str, str],
    make: Callable[[str, Contender], Call | None],
) -> Case:
    text = texts[language]
    build = functools.partial(calls_of, vocabulary, functools.partial(make, text))
    quick = language == "English" or (task == "long text" and vocabulary in ("cl100k", *OTHERS))
    return Case(task, f"{vocabulary}, {language}", len(text.encode()), build, ids, quick=quick)


def _long(text: str, contender: Contender) -> Call:
    return functools.partial(contender.encode, text)


def _to_lists(text: str, contender: Contender) -> Call | None:
    return contender.to_lists and functools.partial(contender.to_lists, small_texts(text))


def _to_numpy(text: str, contender: Contender) -> Call | None:
    return contender.to_numpy and functools.partial(contender.to_numpy, small_texts(text))


def _threads(vocabulary: str, language: str, text: str, size: int, what: str) -> Case:
    """Documents of `size` characters on two threads, ours on one beside."""
    documents = [text[at : at + size] for at in range(0, len(text), size)]

    def make(contender: Contender) -> Call | None:
        return contender.on_threads and functools.partial(contender.on_threads, documents, THREADS)

    def build() -> tuple[dict[str, Call], dict[str, str]]:
        calls, unavailable = calls_of(vocabulary, make)
        alone = loaded(OURS, vocabulary).on_threads
        assert alone is not None
        return {**calls, f"{OURS} on 1": functools.partial(alone, documents, 1)}, unavailable

    quick = vocabulary == "cl100k" and language == "English"
    name = f"{vocabulary}, {language}, {what}"
    return Case(f"{THREADS} threads", name, len(text.encode()), build, ids, quick=quick)
