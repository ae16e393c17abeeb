from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch

from pyllm.optim import AdamW

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def parameters(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for shape in ((7, 5), (40,), ())]


def set_gradients(params: list[torch.nn.Parameter], step: int) -> None:
    g = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g).to(p.dtype)


def train(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_torch_to_rounding(isa: str, dtype: torch.dtype) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    train(AdamW(ours, **options), ours, range(20))
    train(torch.optim.AdamW(theirs, **options), theirs, range(20))
    torch.testing.assert_close(ours, theirs, rtol=2e-6 if dtype == torch.float32 else 1e-12, atol=1e-6)


def test_a_state_without_master_weights_gets_them() -> None:
    params, donors = parameters(torch.bfloat16), parameters(torch.bfloat16)
    donor = AdamW(donors, master_weights=False)
    train(donor, donors, range(2))
    optimizer = AdamW(params)
    optimizer.load_state_dict({**donor.state_dict(), "param_groups": optimizer.state_dict()["param_groups"]})
    train(optimizer, params, range(2, 3))
    for p in params:
        assert torch.equal(p, optimizer.state[p]["master"].bfloat16())
        assert optimizer.state[p]["step"].item() == 3.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_master_weights_follow_float32_training(dtype: torch.dtype) -> None:
    narrow, wide = parameters(dtype), [torch.nn.Parameter(p.float()) for p in parameters(dtype)]
    rounded = parameters(dtype)
    optimizer = AdamW(narrow, lr=1e-4)
    others = [
        (optimizer, narrow),
        (AdamW(wide, lr=1e-4), wide),
        (AdamW(rounded, lr=1e-4, master_weights=False), rounded),
    ]
    for step in range(30):
        set_gradients(narrow, step)
        for params in (wide, rounded):
            for p, q in zip(params, narrow, strict=True):
                p.grad = q.grad.to(p.dtype)  # type: ignore[union-attr]
        for each, _ in others:
            each.step()
    for p, q in zip(narrow, wide, strict=True):
        torch.testing.assert_close(optimizer.state[p]["master"], q.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(p, optimizer.state[p]["master"].to(dtype))
    # Steps of 1e-4 are lost on 16-bit weights near 1 without a master copy.
    assert (rounded[0].float() - wide[0]).abs().max() > (narrow[0].float() - wide[0]).abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_resume_continues_to_the_same_bits(dtype: torch.dtype) -> None:
    straight = parameters(dtype)
    train(AdamW(straight, lr=0.01), straight, range(6))
    first = parameters(dtype)
    optimizer = AdamW(first, lr=0.01)
    train(optimizer, first, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    resumed = AdamW(second, lr=0.5)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(resumed, second, range(3, 6))
    for p, q in zip(straight, second, strict=True):
        assert torch.equal(p, q)


def test_loading_copies_the_state() -> None:
    params = parameters(torch.bfloat16)
    optimizer = AdamW(params)
    train(optimizer, params, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    before = saved["state"][0]["exp_avg"].clone()
    optimizer.load_state_dict(saved)
    train(optimizer, params, range(2))
    assert torch.equal(saved["state"][0]["exp_avg"], before)


def test_takes_over_from_torch() -> None:
    ours, theirs = parameters(), parameters()
    donor = torch.optim.AdamW(theirs, lr=0.01)
    train(donor, theirs, range(4))
    for p, q in zip(ours, theirs, strict=True):
        p.data.copy_(q.data)
    optimizer = AdamW(ours, lr=0.3)
    optimizer.load_state_dict(donor.state_dict())
    train(optimizer, ours, range(4, 8))
    train(donor, theirs, range(4, 8))
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6)


def test_groups_schedules_and_closures() -> None:
    params = parameters()
    optimizer = AdamW(
        [{"params": params[:1], "weight_decay": 0.5, "lr": 1.0}, {"params": params[1:]}], lr=0.1
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    set_gradients(params, 0)
    assert optimizer.step(lambda: 3.0) == 3.0
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.01]


def test_frozen_strided_and_shared_shapes() -> None:
    frozen, strided = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.randn(5, 4).t())
    reference = torch.nn.Parameter(strided.detach().contiguous())
    before = frozen.detach().clone()
    optimizer = AdamW([frozen, strided, reference], lr=0.1)
    strided.grad = torch.randn(4, 5)
    reference.grad = strided.grad.clone()
    optimizer.step()
    assert torch.equal(frozen, before)
    assert frozen not in optimizer.state
    assert torch.equal(strided, reference)
    assert strided.stride() == (1, 4)


def test_grad_scale_leaves_gradients_alone() -> None:
    ours, theirs = parameters(), parameters()
    set_gradients(ours, 0)
    set_gradients(theirs, 0)
    for p in theirs:
        p.grad.mul_(0.25)  # type: ignore[union-attr]
    before = ours[0].grad.clone()  # type: ignore[union-attr]
    AdamW(ours).step(grad_scale=0.25)
    AdamW(theirs).step()
    assert torch.equal(ours[0].grad, before)  # type: ignore[arg-type]
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"eps": -1e-8},
        {"eps": float("inf")},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, float("nan"))},
        {"betas": (0.9,)},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
    ],
    ids=str,
)
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(ValueError, match=name):
        AdamW(parameters(), **options)
    optimizer = AdamW(parameters())
    with pytest.raises(ValueError, match=name):
        optimizer.add_param_group({"params": parameters(seed=1), **options})


def test_bad_steps_update_nothing() -> None:
    params = parameters()
    set_gradients(params, 0)
    params[1].grad = params[1].grad.to_sparse()  # type: ignore[union-attr]
    before = [p.detach().clone() for p in params]
    optimizer = AdamW(params)
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    set_gradients(params, 0)
    with pytest.raises(ValueError, match="grad_scale"):
        optimizer.step(grad_scale=float("nan"))
    for p, q in zip(params, before, strict=True):
        assert torch.equal(p, q)
