"""A process per contender, so that each one's memory is its own and is measured from outside.

The processes live side by side and take turns: one step each, round after round, the others waiting. A busy
moment of the machine hits all alike, and no contender finds another's allocations, threads or caches.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from .contenders import OURS, make_step, shape_of


class Worker:
    """A contender in a process of its own; a context manager that ends it."""

    def __init__(
        self,
        contender: str,
        shape_name: str,
        precision: str,
        checkpointing: str,
        layers: int | None,
        threads: int,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, contender, shape_name, precision, checkpointing, layers, threads)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._receive()  # everything is imported
        self._baseline = self._memory("VmRSS")

    def step(self) -> float:
        """Seconds of one step."""
        self._connection.send("step")
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
    connection: Connection,
    contender: str,
    shape_name: str,
    precision: str,
    checkpointing: str,
    layers: int | None,
    threads: int,
) -> None:
    import torch

    import pyllm

    if contender != OURS:
        import transformers  # noqa: F401  # so that the baseline holds it

    pyllm.tune_allocator()
    torch.set_num_threads(threads)
    connection.send(0.0)
    step = make_step(contender, shape_of(shape_name, layers), precision, checkpointing)
    while True:
        connection.recv()
        start = time.perf_counter()
        step()
        connection.send(time.perf_counter() - start)
