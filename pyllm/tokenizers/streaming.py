"""Decoding one token at a time."""

from __future__ import annotations

from typing import Any


class StreamDecoder:
    """Turns ids into text as they come, and never shows a part of a character.

    A character whose bytes are spread over several tokens appears with the last of them. The pieces join to
    `decode(ids)`. Each push costs time in its own token only.
    """

    def __init__(self, core: Any) -> None:
        """core: `_tokenizers.StreamDecoder`."""
        self._core = core

    def push(self, token_id: int) -> str:
        """The text that this token completes, perhaps "". Raises ValueError for an id without token."""
        return self._core.push(token_id)

    def finish(self) -> str:
        """What is left: U+FFFD where the last character is incomplete. The decoder starts afresh."""
        return self._core.finish()
