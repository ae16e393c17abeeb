"""Decoding, streaming, counting, loading."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .case import Call, Case, calls_of
from .contenders import NAMES, OURS, Contender, load, loaded
from .vocabularies import VOCABULARIES

_QUICK = "cl100k"
_LOADED = ("cl100k", "qwen3", "gemma3.json")


def cases(texts: Mapping[str, str]) -> Iterator[Case]:
    """Every such case on the texts (language -> text)."""
    for vocabulary in ("gpt2", "cl100k", "o200k", "llama3", "qwen3"):
        for language, text in texts.items():
            name, size = f"{vocabulary}, {language}", len(text.encode())
            quick = vocabulary == _QUICK and language == "English"
            for task, make, answer in (
                ("decode", _decode, _as_bytes),
                ("streaming decode", _stream, _as_bytes),
                ("count", _count, lambda number: number),
            ):
                build = functools.partial(_build, vocabulary, text, make)
                yield Case(task, name, size, build, answer, quick=quick)
    for vocabulary in _LOADED:
        yield Case("load", vocabulary, None, functools.partial(_load, vocabulary), None)


def _build(
    vocabulary: str, text: str, make: Callable[[str, np.ndarray, Contender], Call | None]
) -> tuple[dict[str, Call], dict[str, str]]:
    encoded = np.asarray(loaded(OURS, vocabulary).encode(text), np.uint32)
    return calls_of(vocabulary, functools.partial(make, text, encoded))


def _decode(text: str, encoded: np.ndarray, contender: Contender) -> Call | None:
    numbers = encoded if contender.likes_arrays else encoded.tolist()
    return contender.decode and functools.partial(contender.decode, numbers)


def _stream(text: str, encoded: np.ndarray, contender: Contender) -> Call | None:
    return contender.stream and functools.partial(contender.stream, encoded.tolist())


def _count(text: str, encoded: np.ndarray, contender: Contender) -> Call | None:
    return contender.count and functools.partial(contender.count, text)


def _as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _load(vocabulary: str) -> tuple[dict[str, Call], dict[str, str]]:
    able, unavailable = calls_of(vocabulary, lambda contender: lambda: contender)
    described = VOCABULARIES[vocabulary]
    calls: dict[str, Any] = {name: functools.partial(load, name, described) for name in NAMES if name in able}
    calls.pop("quicktok", None)  # it loads a packed form of its own
    if described.path(OURS).suffix == ".tiktoken":
        calls.pop("tokenizers", None)  # it cannot read the file
    return calls, unavailable
