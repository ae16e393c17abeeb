"""Decoding one token at a time."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Turns ids into text as they come, and never shows a part of a character.

    A character whose bytes are spread over several tokens appears with the last of them. The pieces join to
    `decode(ids)`. Each push costs time in its own token only.
    """

    def __init__(self, token_bytes: Callable[[list[int], bool], bytes]) -> None:
        """token_bytes: the bytes of a list of ids; the flag says that they start the text."""
        self._token_bytes = token_bytes
        self._first = True
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes, perhaps "". Raises ValueError for an id without token."""
        text = self._decoder.decode(self._token_bytes([token_id], self._first))
        self._first = False
        return text

    def finish(self) -> str:
        """What is left: U+FFFD where the last character is incomplete. The decoder starts afresh."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._first = True
        return rest
