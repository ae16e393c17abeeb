"""Loss on held-out data."""

from __future__ import annotations

import torch

from pyllm.data.batch import Rows, collate
from pyllm.training.objectives import Objective


@torch.no_grad()
def held_out_loss(
    model: torch.nn.Module, objective: Objective, rows: Rows, batch_size: int, *, bf16: bool = False
) -> float:
    """Mean loss over all `rows`, every token weighted alike whatever the batch size; leaves the model's mode
    as it was.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    loss, weight = 0.0, 0.0
    for start in range(0, len(rows), batch_size):
        batch = collate([rows[index] for index in range(start, min(start + batch_size, len(rows)))]).to(
            device
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            weighted_sum, weight_count = objective(model, batch)
        loss, weight = loss + float(weighted_sum), weight + float(weight_count)
    model.train(was_training)
    if not weight > 0:
        raise ValueError("eval_data: no token in it has a loss weight above 0")
    return loss / weight
