"""Documents packed into rows of one length, and the order in which epochs visit rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from pyllm.data.batch import Row
from pyllm.data.token_store import TokenStore


class PackedRows:
    """A sequence of `Row`s: the chosen pieces of a store one after another, cut every `sequence_length`
    tokens.

        pieces (in an order drawn from seed)   | A A A | B B B B B B B B | C C ...
        rows, sequence_length = 4              [ A A A B B ]
                                                       [ B B B B B ]
                                                               [ B B C C ...

    A row holds sequence_length + 1 tokens: its last one is only predicted, and opens the next row. Document
    ids count from 0 in each row, and the first token of a piece has weight 0, since nothing stands before it.
    The last row is short. Every token belongs to exactly one row as something to predict or to begin with.
    """

    def __init__(self, store: TokenStore, pieces: np.ndarray, sequence_length: int, *, seed: int) -> None:
        if sequence_length < 1:
            raise ValueError(f"sequence_length: expected at least 1, got {sequence_length}")
        order = np.random.default_rng(seed).permutation(pieces)
        self._store = store
        self._starts = store.starts[order]
        self._ends_in_stream = np.cumsum(store.ends[order] - self._starts)
        self._sequence_length = sequence_length
        if self.tokens < 2:
            raise ValueError(f"data: expected at least 2 tokens, got {self.tokens}")

    @property
    def tokens(self) -> int:
        return int(self._ends_in_stream[-1]) if len(self._ends_in_stream) else 0

    def __len__(self) -> int:
        return -(-(self.tokens - 1) // self._sequence_length)

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start = index * self._sequence_length
        stop = min(start + self._sequence_length + 1, self.tokens)
        token_ids, loss_weights, document_ids = [], [], []
        for document, (first, length, at_its_start) in enumerate(self._spans(start, stop)):
            token_ids.append(self._store.tokens[first : first + length])
            weights = np.ones(length, np.float32)
            weights[0] = 0.0 if at_its_start or document == 0 else 1.0
            loss_weights.append(weights)
            document_ids.append(np.full(length, document))
        return Row(*map(np.concatenate, (token_ids, loss_weights, document_ids)))

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
        """The stream from `start` to `stop` as (first token in the store, length, begins its piece)."""
        piece = int(np.searchsorted(self._ends_in_stream, start, side="right"))
        while start < stop:
            piece_start = int(self._ends_in_stream[piece - 1]) if piece else 0
            piece_stop = int(self._ends_in_stream[piece])
            length = min(stop, piece_stop) - start
            if length:
                yield int(self._starts[piece]) + start - piece_start, length, start == piece_start
            start, piece = start + length, piece + 1


def rows_at(position: int, count: int, rows: int, seed: int) -> list[int]:
    """Row numbers at `position` .. `position + count` of an endless walk over `rows` rows, every epoch
    shuffled anew.

    A pure function: resuming at a position needs nothing but the position.
    """
    places = [divmod(place, rows) for place in range(position, position + count)]
    return [int(_epoch(seed, epoch, rows)[row]) for epoch, row in places]


@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)
