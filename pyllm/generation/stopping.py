"""Finding stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text on until a stop string is complete; what may be the beginning of one is held back.

    The string that is complete first wins, the longest of those that end together. So the result is the same
    however the text is cut into pieces, and nothing that belongs to a stop string is ever passed on.

    Attributes:
        matched: the stop string found, None so far.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stop = tuple(stop)
        self._held = ""

    def feed(self, text: str) -> str:
        """Takes the next piece and returns what is safe to show; nothing after a match."""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stop if stop in text]
        if found:
            end, _, self.matched = min(found)
            self._held = ""
            return text[: end - len(self.matched)]
        safe = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[safe:]
        return text[:safe]

    def finish(self) -> str:
        """Returns what is still held back: the text ended without completing a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, short of all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
