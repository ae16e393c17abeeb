"""Interleaved medians: each round times every contender once, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_ROUND_SECONDS = (
    2e-3  # a round repeats a short call until this much has passed, far above the clock's resolution
)
_WARM_UP_CALLS = 3
_MIN_ROUNDS = 7


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median over rounds, and the quartiles around it."""

    median: float
    lower: float
    upper: float
    rounds: int


def compare(calls: dict[str, Callable[[], Any]], seconds: float = 0.4) -> dict[str, Timing]:
    """Times all `calls`, interleaved, for about `seconds` each."""
    repeats = {name: _repeats(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    while len(next(iter(samples.values()))) < _MIN_ROUNDS or time.perf_counter() < end:
        for name, call in calls.items():
            samples[name].append(_time(call, repeats[name]))
    return {name: _summary(values) for name, values in samples.items()}


def _time(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _repeats(call: Callable[[], Any]) -> int:
    for _ in range(_WARM_UP_CALLS):
        call()
    return max(1, round(_ROUND_SECONDS / _time(call, 1)))


def _summary(values: list[float]) -> Timing:
    lower, median, upper = statistics.quantiles(values, n=4)
    return Timing(median, lower, upper, len(values))
