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
        functions: dict[str, Callable[[int], None]] = {"ddp": ddp, "fsdp2": fsdp2, "dtensor": dtensor}
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


def dtensor(rank: int) -> None:
    """Ops on sharded tensors give, put together, what they give on whole ones, forward and backward."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (RANKS,))
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, weight, gate = draw(4, 6, 8), draw(8), draw(4, 6, 8)
    up, down, q, k, v = draw(16, 8), draw(8, 16), draw(4, 4, 6, 8), draw(4, 2, 6, 8), draw(4, 2, 6, 8)
    rows, columns, heads, whole = Shard(0), Shard(1), Shard(1), Replicate()
    cases: list[tuple[Callable[..., Tensor], list[Tensor], list[Any]]] = [
        (pyllm.ops.rms_norm, [x, weight], [rows, whole]),
        (pyllm.ops.layer_norm, [x, weight, weight], [rows, whole, whole]),
        (pyllm.ops.swiglu, [x, gate], [Shard(2), Shard(2)]),
        (pyllm.ops.linear, [x, up], [rows, whole]),
        (pyllm.ops.linear, [x, up], [whole, rows]),
        (pyllm.ops.linear, [draw(4, 6, 16), down], [Shard(2), columns]),
        (lambda q, k, v: pyllm.ops.attention(q, k, v, is_causal=True), [q, k, v], [heads] * 3),
        (lambda q, k, v: pyllm.ops.attention(q, k, v, is_causal=True), [q, k, v], [rows] * 3),
    ]
    for op, inputs, placements in cases:
        leaves = [t.clone().requires_grad_() for t in inputs]
        shards = [
            distribute_tensor(t, mesh, [p]).requires_grad_() for t, p in zip(inputs, placements, strict=True)
        ]
        expected, got = op(*leaves), op(*shards)
        torch.testing.assert_close(got.full_tensor(), expected)
        expected.square().sum().backward()
        got.full_tensor().square().sum().backward()
        for mine, alone in zip(shards, leaves, strict=True):
            assert mine.grad is not None
            torch.testing.assert_close(mine.grad.full_tensor(), alone.grad, rtol=1e-4, atol=1e-5)
