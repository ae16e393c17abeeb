"""What is timed: one task on one text with one vocabulary, by everybody who can do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .contenders import NAMES, OURS, Contender, Unsuitable, loaded

Call = Callable[[], Any]
# Whose answer is right, the first that takes part; without any, ours is what rivals are compared with.
REFERENCES = ("tiktoken", "sentencepiece", "tokenizers")


@dataclass(frozen=True)
class Case:
    """A task and who does it, set up when it is measured.

    Attributes:
        task: what is done. name: vocabulary and text.
        text_bytes: how much text one call goes through; None where seconds are what counts.
        build: returns contender -> call, and rival -> why it is left out. The calls are timed.
        answer: turns what a call returns into something to compare, None where it is not comparable; itself None where
            no answer is.
        in_processes: the calls start a process each and return `Reported`, which says how long it took.
        quick: False for cases of the long form only.
    """

    task: str
    name: str
    text_bytes: int | None
    build: Callable[[], tuple[dict[str, Call], dict[str, str]]]
    answer: Callable[[Any], Any] | None
    in_processes: bool = False
    quick: bool = True

    @property
    def label(self) -> str:
        return f"{self.task}, {self.name}"


@dataclass(frozen=True)
class Reported:
    """What another process measured."""

    seconds: float
    answer: str


def calls_of(
    vocabulary: str, make: Callable[[Contender], Call | None]
) -> tuple[dict[str, Call], dict[str, str]]:
    """Each contender's call, made by `make` (None: it has none), and why installed rivals are missing."""
    calls: dict[str, Call] = {}
    unavailable: dict[str, str] = {}
    for name in NAMES:
        try:
            call = make(loaded(name, vocabulary))
        except Unsuitable:
            continue
        except ModuleNotFoundError as error:
            unavailable[name] = f"not installed ({error.name})"
            continue
        except Exception as error:  # a rival may refuse a vocabulary in any way: it is shown
            if name == OURS:
                raise
            unavailable[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        if call is not None:
            calls[name] = call
    return calls, unavailable


def check(case: Case, calls: dict[str, Call]) -> dict[str, str]:
    """Calls everybody once and compares the answers: rival -> what is wrong with its answer.

    Raises ValueError if ours is what is wrong.
    """
    if case.answer is None:
        return {}
    answers, wrong = {}, {}
    for name, call in calls.items():
        try:
            answers[name] = case.answer(call())
        except Exception as error:  # a rival may fail in any way: it is shown, and the others are measured
            if name == OURS:
                raise
            wrong[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    reference = next((name for name in REFERENCES if name in answers), OURS)
    for name, answer in answers.items():
        if answer is not None and (difference := _difference(answer, answers[reference])) is not None:
            wrong[name] = f"wrong, it differs from {reference} {difference}"
    if OURS in wrong:
        raise ValueError(f"{case.label}: our answer is {wrong[OURS]}")
    return wrong


def ids(result: Any) -> np.ndarray:
    """Ids in any form, of one text or many, as one flat array."""
    if isinstance(result, tuple):  # quicktok: tokens and borders
        return np.asarray(result[0], np.int64)
    if type(result).__module__.startswith("awkward"):
        import awkward

        return np.asarray(awkward.flatten(result, axis=None), np.int64)
    if isinstance(result, np.ndarray):
        return result.astype(np.int64)
    if result and not isinstance(result[0], int):
        return np.concatenate([np.asarray(row, np.int64) for row in result])
    return np.asarray(result, np.int64)


def _difference(answer: Any, expected: Any) -> str | None:
    if not isinstance(expected, np.ndarray):
        return None if answer == expected else "in its answer"
    if np.array_equal(answer, expected):
        return None
    shorter = min(len(answer), len(expected))
    different = np.flatnonzero(answer[:shorter] != expected[:shorter])
    return f"from id {different[0] if len(different) else shorter} on"
