"""A progress bar for loads that take long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_SECONDS = 2.0

Item = TypeVar("Item")


def track(items: Iterable[tuple[int, Item]], total: int, description: str) -> Iterator[Item]:
    """Yield the items of (size, item) pairs whose sizes sum to `total`.

    A bar appears on stderr if that is a terminal and `PATIENCE_SECONDS` have passed.
    """
    start, done, show = time.monotonic(), 0, None
    try:
        for size, item in items:
            yield item
            done += size
            if show is None and sys.stderr.isatty() and time.monotonic() - start > PATIENCE_SECONDS:
                show = _bar(total, description)
            if show is not None:
                show.update(show.task_ids[0], completed=done)
    finally:
        if show is not None:
            show.stop()


def _bar(total: int, description: str) -> Progress:
    # Importing it takes as long as packing 50 MB.
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    bar.add_task(description, total=total)
    bar.start()
    return bar
