"""The pass over pages: the bits of the contiguous cache, in any chunks, among any neighbours, for every layer."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from torch import Tensor

from pyllm.models import Transformer, new_paged_caches, paged_hidden_states, preset
from tests.models.hf import ids
from tests.models.test_transformer import CACHED, ours

PAGE_SIZE, TOKENS = 16, (33, 7, 50)


class Pages:
    """Three sequences on shuffled pages, fed in random chunks."""

    def __init__(self, network: Transformer, seed: int, *, forget: bool = False) -> None:
        self.network, self.forget = network, forget
        config, self.random = network.config, random.Random(seed)
        per_sequence = -(-max(TOKENS) // PAGE_SIZE)
        pages = list(range(1, 1 + per_sequence * len(TOKENS)))
        self.random.shuffle(pages)
        self.table = torch.tensor(pages).view(len(TOKENS), per_sequence)
        self.caches = new_paged_caches(config, len(pages) + 1, page_size=PAGE_SIZE, dtype=network.dtype)
        for cache in self.caches:
            cache.data.fill_(torch.nan)  # what was not written must not matter
        self.done = [0] * len(TOKENS)

    def feed(self, texts: list[Tensor], counts: list[int], **options: Tensor) -> list[Tensor]:
        """Hidden states of the next `counts` tokens of the texts; a count of 0 leaves a text out."""
        rows = [row for row, count in enumerate(counts) if count]
        starts = [self.done[row] for row in rows]
        self.done = [before + count for before, count in zip(self.done, counts, strict=True)]
        ends = [self.done[row] for row in rows]
        ranges = list(zip(rows, starts, ends, strict=True))
        borders = torch.tensor([0, *(counts[row] for row in rows)]).cumsum(0).to(torch.int32)
        hidden = paged_hidden_states(
            self.network,
            torch.cat([texts[row][start:end] for row, start, end in ranges]),
            torch.cat([torch.arange(start, end) for _, start, end in ranges]),
            self.caches,
            [self._table(layer, ranges) for layer in range(len(self.caches))],
            torch.tensor(ends),
            borders,
            **options,
        )
        parts = iter(hidden.split(borders.diff().tolist()))
        return [next(parts) if count else hidden[:0] for count in counts]

    def _table(self, layer: int, ranges: list[tuple[int, int, int]]) -> Tensor:
        """With `forget` pages behind a layer's window become page 0."""
        table, window = self.table[[row for row, _, _ in ranges]], self.network.config.window(layer)
        if self.forget and window is not None:
            for row, (_, start, _) in zip(table, ranges, strict=True):
                row[: max(0, start - window + 1) // PAGE_SIZE] = 0
        return table

    def feed_all(self, texts: list[Tensor], largest: int) -> list[Tensor]:
        parts: list[list[Tensor]] = [[] for _ in texts]
        while left := [len(text) - done for text, done in zip(texts, self.done, strict=True)]:
            if not any(left):
                break
            counts = [self.random.randint(0, min(largest, count)) for count in left]
            if any(counts):
                for part, hidden in zip(parts, self.feed(texts, counts), strict=True):
                    part.append(hidden)
        return [torch.cat(part) for part in parts]


def contiguous(network: Transformer, text: Tensor, chunk: int) -> Tensor:
    cache = network.new_cache(1)
    return torch.cat([network.hidden_states(x, kv_cache=cache)[0] for x in text[None].split(chunk, 1)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", [*CACHED, "qwen3_moe-some-layers", "llama-yarn"])
@torch.inference_mode()
def test_same_bits_as_the_contiguous_cache(variant: str, dtype: torch.dtype) -> None:
    network = ours(variant).to(dtype)
    texts = [ids(1, tokens, seed=tokens)[0] for tokens in TOKENS]
    expected = [contiguous(network, text, 9) for text in texts]
    for seed, largest in enumerate((1, 5, 40)):
        found = Pages(network, seed, forget=True).feed_all(texts, largest)
        for ours_, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours_, theirs)


@torch.inference_mode()
def test_a_prefix_decoder_sees_its_prompt_in_both_directions() -> None:
    torch.manual_seed(0)
    network = Transformer(dataclasses.replace(preset("tiny", vocab_size=97), prefix_decoder=True))
    texts, prefix = [ids(1, tokens, seed=tokens)[0] for tokens in TOKENS], torch.tensor([20, 7, 30])
    pages = Pages(network, 0)
    first = pages.feed(texts, prefix.tolist(), prefix_lengths=prefix)
    rest = pages.feed(texts, [13, 0, 20])
    for text, length, *found in zip(texts, prefix, first, rest, strict=True):
        expected = network.hidden_states(text[None], prefix_lengths=length[None])[0]
        assert torch.equal(torch.cat(found), expected)


@torch.inference_mode()
def test_what_does_not_fit_is_refused() -> None:
    network = Transformer(preset("tiny", vocab_size=97))
    pages, x = Pages(network, 0), ids(1, 3)[0]
    good = {
        "input_ids": x,
        "position_ids": torch.arange(3),
        "caches": pages.caches,
        "block_table": pages.table[:1],
        "lengths": torch.tensor([3]),
        "cu_seqlens_q": torch.tensor([0, 3], dtype=torch.int32),
    }
    for name, value, message in [
        ("caches", pages.caches[1:], "caches and block_table"),
        ("block_table", [pages.table[:1]], "caches and block_table"),
        ("input_ids", x[None], "input_ids and position_ids"),
        ("position_ids", torch.arange(2), "input_ids and position_ids"),
        ("block_table", torch.tensor([[99]]), "block_table"),
    ]:
        with pytest.raises((ValueError, IndexError), match=message):
            paged_hidden_states(network, **good | {name: value})
