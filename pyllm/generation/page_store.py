"""Where keys and values of running texts lie: pages of a fixed memory, shared by texts that begin alike.

    text      t t t t t t t t t t      layers that see all      3 7 9
    pages     |0  |1  |2              layers with a window     . . 4     pages behind it went back

Layers that see equally far keep the same pages of their own caches: a group. A page's key is a chained hash, so that it
stands for all tokens up to the page's end, and for the weights that they met.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyllm.generation.page_groups import page_groups
from pyllm.generation.page_pool import PagePool
from pyllm.generation.request import Request
from pyllm.models import EndlessWindow, Transformer, new_paged_caches, paged_hidden_states

_NO_PAGE = 0


@dataclass
class _Held:
    """A text's pages: in each group one per page_size tokens, _NO_PAGE where a window has left it behind.

    Attributes:
        dropped: how many pages each group's window has left behind.
        published: full pages that others can find.
        in_flight: keys of the pages that this text is about to fill.
    """

    pages: list[array[int]]
    dropped: list[int]
    published: int
    in_flight: list[bytes]


class PageStore:
    """The pages of one network.

    Args:
        kv_cache_bytes: memory for all pages. quantization: of `pyllm.ops.PagedKVCache`.
        step_tokens, rows: most tokens of a step, and most texts held at once. endless: what tokens see of a text.

    Attributes:
        whole_prompts: a prompt must be stored in one step.
        reused_tokens: tokens that were found stored.

    Raises:
        ValueError: the memory is too small for anything, or the page size is none of `pyllm.ops.PagedKVCache`'s.
    """

    def __init__(
        self,
        network: Transformer,
        kv_cache_bytes: int | None,
        page_size: int,
        quantization: str | None,
        step_tokens: int,
        rows: int,
        endless: EndlessWindow | None = None,
    ) -> None:
        self.whole_prompts = network.config.prefix_decoder
        self.page_size, self.reused_tokens = page_size, 0
        self.groups = page_groups(
            network, kv_cache_bytes, page_size, quantization, step_tokens, rows, endless
        )
        group_of = {layer: n for n, group in enumerate(self.groups) for layer in group.layers}
        self._group_of = [group_of[layer] for layer in range(network.config.num_hidden_layers)]
        self._caches = new_paged_caches(
            network.config,
            [self.groups[n].pool.count + 1 for n in self._group_of],
            page_size=page_size,
            dtype=network.dtype,
            quantization=quantization,
            device=network.device,
        )
        self._endless = endless
        self._network, self._weights = network, list(network.parameters())
        self._held: dict[Request, _Held] = {}
        self._in_flight: set[bytes] = set()

    @property
    def pools(self) -> list[PagePool]:
        return [group.pool for group in self.groups]

    def check(self, request: Request) -> None:
        """Raises ValueError where the request may outgrow the memory although it is alone in it."""
        for group in self.groups:
            if group.most_pages(request.longest, self.page_size) > group.pool.count:
                raise ValueError(
                    f"kv_cache_bytes has room for {group.pool.count * self.page_size} tokens, "
                    f"prompt and max_new_tokens come to {request.longest}"
                )

    def has_room(self, request: Request) -> bool:
        """Whether all that the request has so far would fit."""
        tokens = len(request.tokens)
        return all(g.most_pages(tokens, self.page_size) <= g.pool.available for g in self.groups)

    def is_in_flight(self, request: Request) -> bool:
        """Whether a running text is about to store the page that this one lacks first."""
        for key in self._reusable_keys(request):
            if not all(key in group.pool for group in self.groups):
                return key in self._in_flight
        return False

    def adopt(self, request: Request) -> None:
        """Takes a text in: what others stored of its beginning counts as stored."""
        keys = self._reusable_keys(request)
        found = self._longest_beginning(keys)
        request.stored = found * self.page_size
        held = _Held([], [], found, keys[found:])
        for group in self.groups:
            pages = array("i", [_NO_PAGE] * found)
            for number in group.visible(found, self.page_size):
                pages[number] = group.pool.share(keys[number])
            held.pages.append(pages)
            held.dropped.append(group.first_page(request.stored, self.page_size))
        self._held[request] = held
        self._in_flight.update(held.in_flight)
        self.reused_tokens += request.stored

    def reserve(self, request: Request, tokens: int) -> bool:
        """Pages for the text's first `tokens` tokens; False, and nothing is taken, where there are too few."""
        held = self._held[request]
        wanted = -(-tokens // self.page_size)
        lacking = [wanted - len(pages) for pages in held.pages]
        if any(n > group.pool.available for n, group in zip(lacking, self.groups, strict=True)):
            return False
        for n, pages, group in zip(lacking, held.pages, self.groups, strict=True):
            pages.extend(group.pool.allocate() for _ in range(n))
        return True

    def commit(self, request: Request) -> None:
        """What is stored can be found from now on; what the windows left behind goes back."""
        held, size = self._held[request], self.page_size
        full = request.stored // size
        keys = self._keys(request, full) if not self.whole_prompts else []
        for number in range(held.published, len(keys)):
            for group, pages in zip(self.groups, held.pages, strict=True):
                group.pool.publish(pages[number], keys[number])
            self._in_flight.discard(keys[number])
        held.published = len(keys)
        for n, group in enumerate(self.groups):
            first = group.first_page(request.stored, size)
            for number in range(max(held.dropped[n], group.sink_pages), first):
                group.pool.release(held.pages[n][number])
                held.pages[n][number] = _NO_PAGE
            held.dropped[n] = max(first, held.dropped[n])

    def release(self, request: Request) -> None:
        """Gives all of a text's pages back; it has to be stored anew."""
        held = self._held.pop(request)
        self._in_flight.difference_update(held.in_flight)
        for group, pages in zip(self.groups, held.pages, strict=True):
            for page in reversed(pages):  # the end of a text is given up before its beginning
                if page != _NO_PAGE:
                    group.pool.release(page)
        request.stored = 0

    def forward(self, chunks: Sequence[tuple[Request, int]]) -> Tensor:
        """Stores the next so many tokens of each text; hidden states (texts, hidden_size) of the last of each."""
        tokens: list[int] = []
        positions: list[int] = []
        borders = [0]
        for request, count in chunks:
            tokens += request.tokens[request.stored : request.stored + count]
            positions += range(request.stored, request.stored + count)
            borders.append(len(tokens))
        tables = [self._table(n, chunks) for n in range(len(self.groups))]
        device = self._network.device
        prefix = None
        if self._network.config.prefix_decoder:
            prefix = torch.tensor([request.prompt_length for request, _ in chunks], device=device)
        hidden = paged_hidden_states(
            self._network,
            torch.tensor(tokens, device=device),
            torch.tensor(positions, device=device),
            self._caches,
            [tables[n] for n in self._group_of],
            torch.tensor([request.stored + count for request, count in chunks], device=device),
            torch.tensor(borders, dtype=torch.int32, device=device),
            prefix_lengths=prefix,
            endless=self._endless,
        )
        if len(hidden) == len(chunks):
            return hidden
        return hidden[torch.tensor(borders[1:], device=device) - 1]

    def _table(self, group: int, chunks: Sequence[tuple[Request, int]]) -> Tensor:
        """The block table of a group's layers, (texts, most pages)."""
        rows = [self._held[request].pages[group] for request, _ in chunks]
        table = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
        for to, pages in zip(table, rows, strict=True):
            to[: len(pages)] = pages
        return torch.from_numpy(table).to(self._network.device)

    def _longest_beginning(self, keys: Sequence[bytes]) -> int:
        """How many pages of a beginning are there, as far as each group's window needs them to go on."""
        found = 0
        while found < len(keys) and all(
            keys[found] in group.pool for group in self.groups if group.window is None
        ):
            found += 1
        windowed = [group for group in self.groups if group.window is not None]

        def can_go_on(pages: int) -> bool:
            return all(
                keys[number] in group.pool
                for group in windowed
                for number in group.visible(pages, self.page_size)
            )

        while not can_go_on(found):
            found -= 1
        return found

    def _reusable_keys(self, request: Request) -> list[bytes]:
        """Keys of the full pages before the text's last token, which has to be computed in any case."""
        if self.whole_prompts:
            return []
        return self._keys(request, (len(request.tokens) - 1) // self.page_size)

    def _keys(self, request: Request, count: int) -> list[bytes]:
        """Keys of a text's first `count` pages."""
        keys, size = request.page_keys, self.page_size
        if not keys and count:
            keys.append(_hash(self._stamp(), request.tokens[:size]))
        for number in range(len(keys), count):
            keys.append(_hash(keys[-1], request.tokens[number * size : (number + 1) * size]))
        return keys[:count]

    def _stamp(self) -> bytes:
        """Changes when the weights do, so that no text goes on from keys and values of other weights."""
        versions = [0 if weight.is_inference() else weight._version for weight in self._weights]
        return array("q", versions).tobytes()


def _hash(before: bytes, tokens: Sequence[int]) -> bytes:
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()
