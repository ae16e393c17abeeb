"""A progress bar for loads that take long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

PATIENCE_SECONDS = 2.0

Item = TypeVar("Item")


def track(items: Iterable[tuple[int, Item]], total: int, description: str) -> Iterator[Item]:
    """Yield the items of (size, item) pairs whose sizes sum to `total`.

    A bar appears on stderr if that is a terminal and `PATIENCE_SECONDS` have passed.
    """
    from rich.console import Console
    from rich.progress import Progress

    progress = Progress(console=Console(stderr=True), transient=True)
    task = progress.add_task(description, total=total)
    start, shown, terminal = time.monotonic(), False, sys.stderr.isatty()
    try:
        for size, item in items:
            yield item
            progress.advance(task, size)
            if terminal and not shown and time.monotonic() - start > PATIENCE_SECONDS:
                progress.start()
                shown = True
    finally:
        if shown:
            progress.stop()
