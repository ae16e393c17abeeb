"""Generators in turns: each in a process of its own, one untimed call first, then round after round."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..timing import Timing, from_samples  # noqa: TID252  # the package has two names
from .generators import Workload, make_generator
from .workers import Worker


def in_turns(
    names: Sequence[str], model: Path, works: Sequence[Workload], rounds: int, threads: int
) -> dict[str, list[Timing]]:
    """Times every workload by every contender; contender -> a timing for each workload."""
    largest = max(sum(len(prompt) + count for prompt, count in work) for work in works)
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(make_generator, name, model, threads, largest, threads=threads))
            for name in names
        }
        for worker in workers.values():
            for work in works:
                worker.seconds_of(work)  # llama.cpp makes its buffers for a workload of this shape
        samples: dict[str, list[list[float]]] = {name: [[] for _ in works] for name in names}
        for _ in range(rounds):
            for place, work in enumerate(works):
                for name, worker in workers.items():
                    samples[name][place].append(worker.seconds_of(work))
    return {name: [from_samples(times) for times in of_name] for name, of_name in samples.items()}
