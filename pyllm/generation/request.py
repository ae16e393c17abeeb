"""One prompt on its way through an engine, and what a caller holds of it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch

from pyllm.generation.completion import Completion, CompletionBuilder
from pyllm.generation.config import GenerationConfig
from pyllm.generation.logits import LogitsEditor

if TYPE_CHECKING:
    from pyllm.generation.engine import Engine


class Request:
    """A completion in the making: an iterator over its text, for `for` and for `async for`.

        for piece in request: ...               async for piece in request: ...
        completion = request.result()           completion = await request.wait()
        request.cancel()

    Pieces are never empty, end on whole characters and hold no part of a stop string; joined they are the completion's
    text. Who waits for a piece lets the engine work, for all of its requests; there is no thread of the engine's own.

    Attributes:
        completion: what there is so far.
        config: the options it was submitted with.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Sequence[int],
        config: GenerationConfig,
        seed: int,
        eos_token_ids: Collection[int],
        limit: int,
    ) -> None:
        eos = frozenset(() if config.ignore_eos else eos_token_ids)
        network = engine.network
        self.config = config
        self.error: Exception | None = None
        self.seed, self.arrival = seed, 0
        # What the network is to see, and how many of these tokens it has seen: their keys and values are stored.
        self.tokens, self.stored = list(prompt), 0
        self.page_keys: list[bytes] = []
        self.editor = LogitsEditor(config, [prompt], network.config.vocab_size, eos_token_ids, network.device)
        self._engine, self._shown = engine, 0
        self._builder = CompletionBuilder(prompt, limit, config, eos, engine.tokenizer)
        self.completion: Completion = self._builder.completion

    @property
    def finished(self) -> bool:
        return self.completion.finish_reason is not None

    @property
    def missing(self) -> int:
        """Tokens that the network has to see before the next one can be chosen."""
        return len(self.tokens) - self.stored

    @property
    def prompt_length(self) -> int:
        return len(self.completion.prompt_token_ids)

    @property
    def longest(self) -> int:
        """Tokens it may come to, the prompt's included."""
        return self.prompt_length + self._builder.limit

    def append(self, token: int) -> None:
        """Takes the next token."""
        self.tokens.append(token)
        self._builder.append(token)

    def end(self, reason: str) -> None:
        """Ends it here, if it has not ended."""
        if not self.finished:
            self._builder.finish(reason)

    def cancel(self) -> None:
        """Ends it, with finish_reason "cancelled"; its memory is free at once, or as soon as a step under way ends."""
        self._engine.cancel(self)

    def result(self) -> Completion:
        """Lets the engine work until the completion is whole.

        Raises:
            ValueError: the network's logits are not numbers.
        """
        while not self.finished:
            self._engine.work_for(self)
        return self._checked()

    async def wait(self) -> Completion:
        """`result` for asyncio. Cancelling the task cancels the request."""
        async for _ in self:
            pass
        return self._checked()

    def __iter__(self) -> Request:
        return self

    def __next__(self) -> str:
        piece = self._next_piece()
        if piece is None:
            raise StopIteration
        return piece

    def __aiter__(self) -> Request:
        return self

    async def __anext__(self) -> str:
        loop = asyncio.get_running_loop()
        try:
            piece = await loop.run_in_executor(self._engine.worker, self._next_piece)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    def _next_piece(self) -> str | None:
        """Text that has not been shown, None at the end."""
        while len(self.completion.text) == self._shown and not self.finished:
            self._engine.work_for(self)
        text = self._checked().text
        piece, self._shown = text[self._shown :], len(text)
        return piece or None

    def _checked(self) -> Completion:
        if self.error is not None:
            raise self.error
        return self.completion


def request_seed(config: GenerationConfig, copy: int = 0) -> int:
    """Seed of the copy-th completion of a prompt: the config's own for the first one, a drawn one where it has none."""
    if config.seed is None:
        return int(torch.randint(2**63 - 1, ()))
    return (config.seed + copy * 0x9E3779B97F4A7C15) % 2**63
