"""Decoding one token at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class StreamDecoder:
    """Turns ids into text as they come, and never shows a part of a character.

    A character whose bytes are spread over several tokens appears with the last of them. The pieces join to
    `decode(ids)`. Each push costs time in its own token only.

    Attributes:
        push: the text that a token completes, perhaps "". Raises ValueError for an id without token.
        finish: what is left: U+FFFD where the last character is incomplete. The decoder starts afresh.
    """

    __slots__ = ("finish", "push")

    # Functions of the C++ core themselves: a method in between would take longer than they do.
    push: Callable[[int], str]
    finish: Callable[[], str]

    def __init__(self, core: Any) -> None:
        """core: `_tokenizers.StreamDecoder`."""
        self.push, self.finish = core.functions()
