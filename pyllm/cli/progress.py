"""A progress bar on stderr for work that takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 2.0


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function that hears (phase, done, total); total 0 means unknown.

    The bar appears after two seconds, and only if stderr is a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda phase, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    bar = Progress(console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}
    start = time.monotonic()

    def show(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = bar.add_task(phase.capitalize(), total=total or None)
        bar.update(tasks[phase], completed=done, total=total or None)
        if not bar.live.is_started and time.monotonic() - start > PATIENCE_SECONDS:
            bar.start()

    try:
        yield show
    finally:
        bar.stop()
