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


def _block(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """A norm, a rotation of its halves' heads and a gated MLP on the stream: what a layer does but attention."""
    h = pyllm.ops.rms_norm(x, w["norm"])
    heads = h.unflatten(-1, (4, 8)).transpose(1, 2)
    q, k = pyllm.ops.rope(heads, heads.square(), w["cos"], w["sin"])
    h, x = pyllm.ops.rms_norm((q + k).transpose(1, 2).flatten(2), w["norm"], residual=x)
    return x + pyllm.ops.swiglu(h @ w["gate"].t(), h @ w["up"].t()) @ w["down"].t()


def dtensor(rank: int) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    from pyllm.integrations.dtensor import register_shardings

    register_shardings()
    mesh = init_device_mesh("cpu", (RANKS,))
    torch.manual_seed(0)
    shapes = {"norm": (32,), "gate": (48, 32), "up": (48, 32), "down": (32, 48)}
    leaves = {"x": torch.randn(4, 6, 32)} | {name: torch.randn(shape) for name, shape in shapes.items()}
    angles = torch.outer(torch.arange(6.0), torch.rand(4))
    tables = {"cos": angles.cos(), "sin": angles.sin()}

    def gradients(place: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
        placed = {name: place(name, leaf).requires_grad_() for name, leaf in leaves.items()}
        weights = placed | {name: place(name, table) for name, table in tables.items()}
        _block(placed["x"], weights).square().sum().backward()
        return {name: leaf.grad for name, leaf in placed.items()}  # type: ignore[misc]

    expected = gradients(lambda name, leaf: leaf.clone())
    layouts = {
        "batch": {"x": Shard(0)},
        "tensor": {"gate": Shard(0), "up": Shard(0), "down": Shard(1)},
    }
    for layout in layouts.values():
        found = gradients(
            lambda name, leaf, layout=layout: distribute_tensor(  # type: ignore[misc]
                leaf.clone(), mesh, [layout.get(name, Replicate())]
            )
        )
        for name, right in expected.items():
            error = (found[name].full_tensor() - right).abs().max() / right.abs().max()  # type: ignore[attr-defined]
            assert error < 1e-5, (name, error)  # sums over ranks round otherwise
        for name, placement in layout.items():
            assert found[name].placements == (placement,)  # type: ignore[attr-defined]
    # Each rank computes its own part only.
    cut = distribute_tensor(leaves["gate"], mesh, [Shard(1)])
    assert pyllm.ops.swiglu(cut, cut).to_local().shape == (48, 16)
