"""Layers that see equally far, and how many pages each such group gets of the memory."""

from __future__ import annotations

from dataclasses import dataclass

from pyllm.generation.page_pool import PagePool
from pyllm.models import EndlessWindow, Transformer, new_paged_caches


@dataclass(frozen=True)
class PageGroup:
    """Layers that keep the same pages, each of its own cache.

    Attributes:
        window: how many keys a query sees, its own included; None: all.
        sink_pages: pages at the beginning that stay visible.
        layers: their numbers.
        step_tokens: most tokens that a step stores.
    """

    window: int | None
    sink_pages: int
    layers: tuple[int, ...]
    step_tokens: int
    pool: PagePool

    def first_page(self, tokens: int, page_size: int) -> int:
        """The first page that a query behind `tokens` tokens sees."""
        return 0 if self.window is None else max(0, tokens - self.window + 1) // page_size

    def most_pages(self, tokens: int, page_size: int) -> int:
        """Pages that a text holds at most until it has `tokens` tokens."""
        pages = -(-tokens // page_size)
        if self.window is None:
            return pages
        seen = self.sink_pages + _window_pages(self.window, page_size)
        return min(pages, seen + -(-self.step_tokens // page_size))

    def visible(self, pages: int, page_size: int) -> list[int]:
        """Of a text's first `pages` pages, which are full, those that the next token sees."""
        first = self.first_page(pages * page_size, page_size)
        return [*range(min(self.sink_pages, first)), *range(first, pages)]


def page_groups(
    network: Transformer,
    kv_cache_bytes: int | None,
    page_size: int,
    quantization: str | None,
    step_tokens: int,
    rows: int,
    endless: EndlessWindow | None,
) -> list[PageGroup]:
    """The groups of a network, with pages that fill `kv_cache_bytes` together.

    Layers that see everything and layers with a window get pages for the same number of tokens, but the latter no more
    than `rows` texts and one step of `step_tokens` tokens can fill. None stands for 2 GiB, or for what a text of the
    model's whole context needs where that is more.

    Raises:
        ValueError: not one page each fits into the memory.
    """
    config = network.config
    spans = [_span(config.window(layer), endless, page_size) for layer in range(config.num_hidden_layers)]
    layers = {span: tuple(n for n, other in enumerate(spans) if other == span) for span in spans}
    one = new_paged_caches(config, 1, page_size=page_size, dtype=network.dtype, quantization=quantization)
    page_bytes = one[0].data.nbytes
    step_pages = -(-step_tokens // page_size)

    def counts(pages: int) -> list[int]:
        limits = [
            pages if window is None else rows * (sinks + _window_pages(window, page_size)) + step_pages
            for window, sinks in layers
        ]
        return [min(pages, limit) for limit in limits]

    def needed(pages: int) -> int:
        # One more of each: page 0 is never lent.
        return sum(
            (n + 1) * len(own) * page_bytes for n, own in zip(counts(pages), layers.values(), strict=True)
        )

    context = -(-config.max_position_embeddings // page_size)
    if kv_cache_bytes is None:
        kv_cache_bytes = max(2 << 30, needed(context))
    if needed(1) > kv_cache_bytes:
        raise ValueError(
            f"kv_cache_bytes must be at least {needed(1)}, a page per layer, got {kv_cache_bytes}"
        )
    low, high = 1, rows * context + 1  # needed(low) fits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= kv_cache_bytes else (low, middle)
    return [
        PageGroup(*span, own, step_tokens, PagePool(n))
        for n, (span, own) in zip(counts(low), layers.items(), strict=True)
    ]


def _span(window: int | None, endless: EndlessWindow | None, page_size: int) -> tuple[int | None, int]:
    """A layer's window, and its pages with sink tokens."""
    if endless is None or window is not None:
        return window, 0
    return endless.recent_tokens, -(-endless.sink_tokens // page_size)


def _window_pages(window: int, page_size: int) -> int:
    """Pages that the keys of one window touch at most, and the one that is being filled."""
    return -(-window // page_size) + 2
