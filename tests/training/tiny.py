"""A small network with the two things a language-modelling objective asks of a model, in plain torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pyllm.data import Batch, Row

VOCABULARY = 61


class TinyModel(nn.Module):
    """Averages the embeddings of the document so far, then a dropout and an MLP."""

    def __init__(self, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, width))
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    @property
    def lm_head_weight(self) -> torch.Tensor:
        return self.head.weight

    def hidden_states(self, input_ids: torch.Tensor, *, document_ids: torch.Tensor) -> torch.Tensor:
        embedded = self.embedding(input_ids)
        visible = (document_ids[:, :, None] == document_ids[:, None, :]).to(embedded.dtype).tril()
        context = visible @ embedded / visible.sum(-1, keepdim=True)
        return embedded + self.mlp(self.norm(context))


def build(seed: int = 0, *, dropout: float = 0.0) -> TinyModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyModel(dropout=dropout)


def cross_entropy(model: TinyModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The language-modelling objective in plain torch."""
    weights = batch.loss_weights[:, 1:] * (batch.document_ids[:, 1:] == batch.document_ids[:, :-1])
    hidden = model.hidden_states(batch.token_ids[:, :-1], document_ids=batch.document_ids[:, :-1])
    logits = hidden @ model.lm_head_weight.T
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.token_ids[:, 1:].flatten(), reduction="none"
    )
    return (losses * weights.flatten()).sum(), weights.sum()


def rows(count: int, seed: int = 0) -> list[Row]:
    """Rows of very unequal lengths and weights, some with several documents; token t + 1 mostly follows t."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        length = int(draw.choice([2, 3, 5, 40, 70]))
        ids = (draw.integers(VOCABULARY) + np.arange(length) + (draw.random(length) < 0.05)) % VOCABULARY
        weights = draw.choice([0.01, 0.5, 1.0, 30.0], size=length).astype(np.float32)
        documents = np.sort(draw.integers(0, 3, size=length))
        made.append(Row(ids, weights, documents))
    return made
