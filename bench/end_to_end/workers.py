"""A process per contender, so that memory, threads and caches are its own, and memory is measured from outside.

The processes live side by side and take turns, one call each, round after round, the others waiting: a busy moment of
the machine hits all alike.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

Make = Callable[..., Callable[..., object]]


class Worker:
    """What `make(*arguments)` returns, in a process of its own; a context manager that ends it.

    Args:
        make: a function of a module, so that the process finds it by name.
        threads: torch's threads in the process.
        imports: modules that belong to the process's baseline of memory, beside torch and pyllm.
    """

    def __init__(self, make: Make, *arguments: Any, threads: int, imports: Sequence[str] = ()) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, threads, imports, make, arguments), daemon=True
        )
        self._process.start()
        theirs.close()
        self._receive()  # everything is imported
        self._baseline = self._memory("VmRSS")

    def seconds_of(self, *arguments: Any) -> float:
        """Calls it with `arguments`; returns how long that took."""
        self._connection.send(arguments)
        return self._receive()

    def peak_bytes(self) -> int:
        """Peak resident memory so far above that of the process with everything imported and nothing made."""
        return self._memory("VmHWM") - self._baseline

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def _receive(self) -> float:
        try:
            return float(self._connection.recv())
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a contender's process ended with code {self._process.exitcode}") from None

    def _memory(self, field: str) -> int:
        """A size in bytes from /proc/PID/status."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc/{self._process.pid}/status does not say {field}")


def _serve(
    connection: Connection, threads: int, imports: Sequence[str], make: Make, arguments: Sequence[Any]
) -> None:
    import torch

    import pyllm

    for name in imports:
        importlib.import_module(name)
    pyllm.tune_allocator()
    torch.set_num_threads(threads)
    connection.send(0.0)
    call = make(*arguments)
    while True:
        given = connection.recv()
        start = time.perf_counter()
        call(*given)
        connection.send(time.perf_counter() - start)
