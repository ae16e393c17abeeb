"""Rows and batches: the one form in which training data reaches an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch


class Row(NamedTuple):
    """One training row, each field (length,).

    `token_ids` int; `loss_weights` float: how much the prediction of this token, from those before it in its
    document, counts; `document_ids` int: tokens of different documents never see each other, -1 is padding.
    """

    token_ids: np.ndarray
    loss_weights: np.ndarray
    document_ids: np.ndarray


class Rows(Protocol):
    """What a trainer reads: anything with a length and a `Row` at each index, such as a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Row: ...


@dataclass(frozen=True)
class Batch:
    """Rows of equal length: `token_ids` (rows, length) int64, `loss_weights` fp32, `document_ids` int64."""

    token_ids: torch.Tensor
    loss_weights: torch.Tensor
    document_ids: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(self.token_ids.to(device), self.loss_weights.to(device), self.document_ids.to(device))


def collate(rows: Sequence[Row]) -> Batch:
    """Stacks rows, the shorter ones padded at their end with token 0, weight 0 and document -1."""
    length = max(len(row.token_ids) for row in rows)
    token_ids = np.zeros((len(rows), length), np.int64)
    loss_weights = np.zeros((len(rows), length), np.float32)
    document_ids = np.full((len(rows), length), -1, np.int64)
    for index, row in enumerate(rows):
        token_ids[index, : len(row.token_ids)] = row.token_ids
        loss_weights[index, : len(row.loss_weights)] = row.loss_weights
        document_ids[index, : len(row.document_ids)] = row.document_ids
    return Batch(*map(torch.from_numpy, (token_ids, loss_weights, document_ids)))
