"""Text of a completion while its tokens arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyllm.generation.config import GenerationConfig
from pyllm.generation.stopping import StopMatcher

if TYPE_CHECKING:
    from pyllm.tokenizers import StreamDecoder


class TextAssembler:
    """Turns tokens into text that can be shown at once: whole characters, and no part of a stop string.

    Attributes:
        text: all that was passed on so far.
        stopped: a stop string was completed.
    """

    def __init__(self, decoder: StreamDecoder | None, config: GenerationConfig) -> None:
        self.text = ""
        self._decoder = decoder
        self._matcher = StopMatcher(config.stop)
        self._unwatched = config.min_new_tokens

    @property
    def stopped(self) -> bool:
        return self._matcher.matched is not None

    def feed(self, token: int) -> None:
        """Takes the next token."""
        if self._decoder is None:
            return
        try:
            piece = self._decoder.push(token)
        except ValueError:  # embeddings padded beyond the vocabulary: an id that is no token
            piece = "\ufffd"
        self._unwatched -= 1
        self.text += piece if self._unwatched >= 0 else self._matcher.feed(piece)

    def finish(self) -> None:
        """Adds what was held back; an incomplete character becomes U+FFFD."""
        if self._decoder is not None:
            self.text += self._matcher.feed(self._decoder.finish()) + self._matcher.finish()
