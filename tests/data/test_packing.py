from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.data import PackedRows, Row, TokenStore, collate, rows_at


def store_of(lengths: list[int]) -> TokenStore:
    """A store whose token ids name their own place, so that rows can be checked against it."""
    ends = np.cumsum(lengths)
    return TokenStore(
        np.arange(ends[-1], dtype=np.uint32), ends, np.arange(len(lengths), dtype=np.uint64), ""
    )


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 20), st.integers(0, 5), st.data()
)
def test_rows_hold_every_token_once_with_its_document(lengths, sequence_length, seed, data) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True, min_size=1))
    store = store_of(lengths)
    kept = sum(lengths[piece] for piece in chosen)
    if kept < 2:
        with pytest.raises(ValueError, match="at least 2 tokens"):
            PackedRows(store, np.array(chosen), sequence_length, seed=seed)
        return
    packed = PackedRows(store, np.array(chosen), sequence_length, seed=seed)
    rows = [packed[index] for index in range(len(packed))]
    assert all(len(row.token_ids) == sequence_length + 1 for row in rows[:-1])
    assert 2 <= len(rows[-1].token_ids) <= sequence_length + 1

    first, *rest = rows
    stream = np.concatenate([first.token_ids, *(row.token_ids[1:] for row in rest)])
    expected = {token for piece in chosen for token in range(store.starts[piece], store.ends[piece])}
    assert len(stream) == kept
    assert set(stream.tolist()) == expected
    for before, after in zip(rows, rest, strict=False):
        assert before.token_ids[-1] == after.token_ids[0]

    piece_of = np.repeat(np.arange(len(lengths)), lengths)
    predicted = []
    for row in rows:
        pieces = piece_of[row.token_ids]
        assert np.array_equal(pieces[1:] == pieces[:-1], row.document_ids[1:] == row.document_ids[:-1])
        assert row.document_ids[0] == 0
        assert np.array_equal(row.loss_weights[1:] == 1, row.document_ids[1:] == row.document_ids[:-1])
        assert row.loss_weights[0] == 0
        predicted += row.token_ids[row.loss_weights > 0].tolist()
    assert sorted(predicted) == sorted(expected - {int(store.starts[piece]) for piece in chosen})


def test_the_seed_decides_the_order_of_pieces() -> None:
    store = store_of([5] * 20)
    orders = [PackedRows(store, np.arange(20), 7, seed=seed)[0].token_ids.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_bad_sequence_length_and_index() -> None:
    with pytest.raises(ValueError, match="sequence_length"):
        PackedRows(store_of([5]), np.arange(1), 0, seed=0)
    rows = PackedRows(store_of([5]), np.arange(1), 4, seed=0)
    assert len(list(rows)) == 1
    with pytest.raises(IndexError):
        rows[-1]


@given(st.integers(0, 300), st.integers(1, 50), st.integers(1, 40), st.integers(0, 3))
def test_rows_at_is_seekable_and_visits_each_row_once_an_epoch(position, count, rows, seed) -> None:
    walk = rows_at(0, position + count, rows, seed)
    assert rows_at(position, count, rows, seed) == walk[position:]
    epochs = len(walk) // rows
    for epoch in range(epochs):
        assert sorted(walk[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_epochs_and_seeds_differ() -> None:
    first, second = rows_at(0, 50, 50, 0), rows_at(50, 50, 50, 0)
    assert first != second
    assert first != rows_at(0, 50, 50, 1)


def test_collate_pads_at_the_end() -> None:
    batch = collate(
        [
            Row(np.array([5, 6], np.uint16), np.array([0, 1], np.float32), np.array([0, 0])),
            Row(np.array([7, 8, 9], np.uint16), np.array([0, 0.5, 2], np.float32), np.array([0, 1, 1])),
        ]
    )
    assert batch.token_ids.tolist() == [[5, 6, 0], [7, 8, 9]]
    assert batch.loss_weights.tolist() == [[0, 1, 0], [0, 0.5, 2]]
    assert batch.document_ids.tolist() == [[0, 0, -1], [0, 1, 1]]
