"""Text in and out of the terminal, for the commands that generate."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyllm.generation import Request


@dataclass(frozen=True)
class Timings:
    """Seconds until the first text was there (the prompt read), seconds in all, and tokens per second after that."""

    first_text_seconds: float
    seconds: float
    tokens_per_second: float


def read_standard_input() -> str:
    """All of standard input. Raises ValueError if it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input must be UTF-8 text: {error}") from None


def write(text: str) -> None:
    """Prints at once, whatever characters the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def show(stream: Request, *, quiet: bool = False) -> Timings:
    """Prints a text while it is made, unless `quiet`, and measures."""
    start = first = time.perf_counter()
    made_at_first = 0
    for piece in stream:
        if not made_at_first:
            first, made_at_first = time.perf_counter(), len(stream.completion.token_ids)
        if not quiet:
            write(piece)
    end = time.perf_counter()
    decoded = len(stream.completion.token_ids) - made_at_first
    rate = decoded / (end - first) if decoded and end > first else 0.0
    return Timings(first - start, end - start, rate)


@contextmanager
def hidden_typing() -> Iterator[None]:
    """Keys pressed meanwhile wait for the next line to be read, and do not show up in the middle of a text."""
    if not sys.stdin.isatty() or os.name != "posix":
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    muted = [*before]
    muted[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, muted)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def note(text: str) -> None:
    """A line for the person at the terminal: on stderr, and only if that is one."""
    if sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True, highlight=False).print(text, style="dim", markup=False)


def note_speed(stream: Request, timings: Timings) -> None:
    """Tells how much was made and how fast."""
    made = stream.completion
    ending = " (token limit reached)" if made.finish_reason == "length" else ""
    note(
        f"{len(made.prompt_token_ids)} tokens read in {timings.first_text_seconds:.2f} s, "
        f"{len(made.token_ids)} made at {timings.tokens_per_second:.1f} tokens/s{ending}"
    )
