"""What every case runs under: limits of time and memory, what counts as a refusal, and how a failure is reported."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.assets import REPOSITORY

Case = Callable[[random.Random, Path], None]

# What a file of less than a megabyte may cost.
MOST_SECONDS = 10.0
MOST_BYTES = 1 << 30
FAILURES = REPOSITORY / "build" / "fuzz"


class Found(AssertionError):
    """A case that failed, with the seed that repeats it."""


def run_case(name: str, case: Case, seed: int, folder: Path) -> None:
    """One case in the emptied `folder`. Raises Found, and keeps the files under build/fuzz, if it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begin = time.process_time()
    try:
        with limited_memory():
            case(random.Random(f"{name} {seed}"), folder)
        seconds = time.process_time() - begin
        if seconds > MOST_SECONDS:
            raise AssertionError(f"it took {seconds:.1f} s of processor time")
    except BaseException as error:
        kept = FAILURES / f"{name}-{seed}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept)
        repeat = f"python -m tests.fuzz --target {name} --seed {seed}"
        raise Found(f"{name}, seed {seed} (files in {kept}; repeat: {repeat}): {error!r}"[:4000]) from error


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Allocations that take the process MOST_BYTES beyond what it has now fail. Not under a sanitizer, which reserves
    terabytes."""
    if "ASAN_OPTIONS" in os.environ:
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def refusal_names(*names: str) -> Iterator[None]:
    """Swallows a ValueError or OSError whose message has one of `names`; everything else goes through."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not any(name in str(error) for name in names):
            raise AssertionError(f"the message names none of {names}: {error!r}") from error
