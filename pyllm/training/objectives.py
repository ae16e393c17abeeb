"""Training objectives: pure functions of (model, batch) that return (weighted_sum, weight_count).

`weighted_sum` is the sum over tokens of weight times loss, a scalar with gradient; `weight_count` is the sum
of those weights, a scalar. An objective never divides: a mean of micro-batch means weighs tokens by the
company they keep. The training loop divides once, by the weight count of all micro-batches of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyllm import ops
from pyllm.data.batch import Batch

Objective = Callable[[Any, Batch], tuple[torch.Tensor, torch.Tensor]]


def language_modelling(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every token given those before it in its document.

    `model` offers `hidden_states(input_ids, document_ids=...)` and `lm_head_weight`, and `logit_softcap` where logits
    are capped, as `pyllm.models.Transformer` does; the logits are never held whole. A row of n + 1 tokens makes n
    predictions.
    """
    targets, documents = batch.token_ids[:, 1:], batch.document_ids
    same_document = documents[:, 1:] == documents[:, :-1]
    weights = batch.loss_weights[:, 1:] * same_document
    hidden = model.hidden_states(batch.token_ids[:, :-1], document_ids=documents[:, :-1])
    weighted_sum = ops.linear_cross_entropy(
        hidden.flatten(0, 1),
        model.lm_head_weight,
        targets.flatten(),
        softcap=getattr(model, "logit_softcap", None),
        token_weight=weights.flatten(),
        reduction="sum",
    )
    return weighted_sum, weights.sum()
