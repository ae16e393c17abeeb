"""What two processes run in test_distributed.py: each function gets its rank and raises where something is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import pyllm

RANKS = 2


def run(rank: int, port: int, name: str) -> None:
    """One process of `RANKS`: joins gloo at `port` and runs the function `name` of this file."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    try:
        functions: dict[str, Callable[[int], None]] = {"ddp": ddp, "fsdp2": fsdp2}
        functions[name](rank)
    finally:
        dist.destroy_process_group()


def _model() -> Any:
    from tests.integrations import models

    model = models.decoder("llama")
    pyllm.patch(model, linear=True)
    return model.train()


def _step(model: Any, ids: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach()


def _texts(rank: int) -> Tensor:
    from tests.integrations import models

    return models.tokens(2, 9, seed=rank)


def _expected() -> Any:
    """Gradients of the mean over both processes' losses, in one process."""
    model = _model()
    for rank in range(RANKS):
        (model(input_ids=_texts(rank), labels=_texts(rank)).loss / RANKS).backward()
    return model


def ddp(rank: int) -> None:
    """DistributedDataParallel averages gradients, with and without looking for unused parameters."""
    for unused in (False, True):
        model = torch.nn.parallel.DistributedDataParallel(_model(), find_unused_parameters=unused)
        _step(model, _texts(rank))
        for mine, alone in zip(model.parameters(), _expected().parameters(), strict=True):
            torch.testing.assert_close(mine.grad, alone.grad, rtol=1e-5, atol=1e-7)


def fsdp2(rank: int) -> None:
    """Parameters sharded per layer, given back between; head in a group of its own or with the rest."""
    from torch.distributed.fsdp import fully_shard

    for head_apart in (False, True):
        model = _model()
        for layer in model.model.layers:
            fully_shard(layer)
        if head_apart:
            fully_shard(model.lm_head)
        fully_shard(model)
        _step(model, _texts(rank))
        for mine, alone in zip(model.parameters(), _expected().parameters(), strict=True):
            torch.testing.assert_close(mine.grad.full_tensor(), alone.grad, rtol=1e-5, atol=1e-7)
