"""Interleaved medians: each round times every contender once, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_ROUND_SECONDS = (
    2e-3  # a round repeats a short call until this much has passed, far above the clock's resolution
)
_WARM_UP_CALLS, _WARM_UP_SECONDS = 3, 0.5  # whichever ends first
_MIN_ROUNDS = 7
# A contender whose call takes longer than these seconds sits out after so many rounds.
_SLOW = ((5.0, 1), (0.5, 3))


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median over rounds, and the quartiles around it."""

    median: float
    lower: float
    upper: float
    rounds: int


def compare(calls: dict[str, Callable[[], Any]], seconds: float = 0.4) -> dict[str, Timing]:
    """Times all `calls`, interleaved, for about `seconds` each."""
    warm = {name: _warm_up(call) for name, call in calls.items()}
    repeats = {name: max(1, round(_ROUND_SECONDS / once)) for name, once in warm.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    rounds = 0
    while turn := [name for name in calls if rounds < _rounds(warm[name], time.perf_counter() >= end)]:
        for name in turn:
            samples[name].append(_time(calls[name], repeats[name]))
        rounds += 1
    return {name: from_samples(values) for name, values in samples.items()}


def merge(runs: Sequence[Timing]) -> Timing:
    """Several runs of one contender as one: the median of their medians, within their widest quartiles."""
    return Timing(
        statistics.median(run.median for run in runs),
        min(run.lower for run in runs),
        max(run.upper for run in runs),
        sum(run.rounds for run in runs),
    )


def _rounds(call_seconds: float, late: bool) -> float:
    """How many rounds a contender takes part in: any number while there is time, a few where a call is slow."""
    most = next((rounds for slow, rounds in _SLOW if call_seconds > slow), float("inf"))
    return min(most, _MIN_ROUNDS) if late else most


def _time(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _warm_up(call: Callable[[], Any]) -> float:
    """Seconds of the last call."""
    end = time.perf_counter() + _WARM_UP_SECONDS
    once = _time(call, 1)
    for _ in range(_WARM_UP_CALLS):
        if time.perf_counter() >= end:
            break
        once = _time(call, 1)
    return once


def from_samples(values: list[float]) -> Timing:
    if len(values) == 1:
        return Timing(values[0], values[0], values[0], 1)
    lower, median, upper = statistics.quantiles(values, n=4)
    return Timing(median, lower, upper, len(values))
