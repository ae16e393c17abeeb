"""Document borders and positions of packed rows."""

from __future__ import annotations

import torch

from pyllm.models.packing import document_layout


def test_borders_and_positions() -> None:
    cu_seqlens, positions = document_layout(torch.tensor([[5, 5, 3, 3, 3], [3, 1, 1, 3, 3]]))
    assert cu_seqlens.dtype == torch.int32
    assert cu_seqlens.tolist() == [0, 2, 5, 6, 8, 10]
    assert positions.tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 0, 1]]


def test_a_row_is_a_border_even_between_equal_ids() -> None:
    cu_seqlens, positions = document_layout(torch.zeros(2, 3, dtype=torch.int64))
    assert cu_seqlens.tolist() == [0, 3, 6]
    assert positions.tolist() == [[0, 1, 2], [0, 1, 2]]
