"""Where texts lie whose network keeps a cache of its own: one cache per text, whole prompts, no sharing.

So do encoder-decoders: the encoder reads the prompt once, and its keys and values stay with the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyllm.generation.request import Request


class OwnCacheStore:
    """Caches of `network.new_cache(1)`, taken through `network.hidden_states`; methods as in `PageStore`."""

    whole_prompts = True
    reused_tokens = 0
    pools = ()

    def __init__(self, network: Any) -> None:
        self._network = network
        self._caches: dict[Request, Any] = {}

    def check(self, request: Request) -> None:
        pass

    def has_room(self, request: Request) -> bool:
        return True

    def is_in_flight(self, request: Request) -> bool:
        return False

    def adopt(self, request: Request) -> None:
        self._caches[request] = self._network.new_cache(1, capacity=request.longest)
        request.stored = 0

    def reserve(self, request: Request, tokens: int) -> bool:
        return True

    def commit(self, request: Request) -> None:
        pass

    def release(self, request: Request) -> None:
        del self._caches[request]
        request.stored = 0

    def forward(self, chunks: Sequence[tuple[Request, int]]) -> Tensor:
        return torch.cat([self._last_hidden(request, count) for request, count in chunks])

    def _last_hidden(self, request: Request, count: int) -> Tensor:
        tokens = request.tokens[request.stored : request.stored + count]
        return self._network.hidden_states(
            torch.tensor([tokens], device=self._network.device),
            kv_cache=self._caches[request],
            last_token_only=True,
        )
