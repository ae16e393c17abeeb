from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops import _library, adamw_step, adamw_steps
from pyllm.ops.adamw import adamw_step_reference
from tests.ops.numerics import assert_as_accurate, assert_same_bits_at_any_thread_count

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPTIONS: dict[str, Any] = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}


def tensors(shape: tuple[int, ...], dtype: torch.dtype, master: bool, seed: int = 0) -> list[Any]:
    """param, grad, exp_avg, exp_avg_sq, master (or None), as after some steps."""
    g = torch.Generator().manual_seed(seed)
    wide = torch.promote_types(dtype, torch.float32)
    copy = torch.randn(shape, generator=g, dtype=wide)
    grad = torch.randn(shape, generator=g).to(dtype)
    exp_avg = torch.randn(shape, generator=g, dtype=wide)
    exp_avg_sq = torch.rand(shape, generator=g, dtype=wide)
    return [copy.to(dtype), grad, exp_avg, exp_avg_sq, copy if master else None]


def run(function: Any, state: list[Any], **changes: Any) -> list[torch.Tensor]:
    """The written tensors after one step; `state` is left as it was."""
    param, grad, exp_avg, exp_avg_sq, master = (None if t is None else t.clone() for t in state)
    options = {**OPTIONS, "step": 7, "grad_scale": 0.5, **changes}
    function(param, grad, exp_avg, exp_avg_sq, master=master, **options)
    return [t for t in (param, exp_avg, exp_avg_sq, master) if t is not None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 17, 40_001])
@pytest.mark.parametrize("master", [False, True])
def test_error_rule(isa: str, count: int, dtype: torch.dtype, master: bool) -> None:
    if master and dtype == torch.float32:
        pytest.skip("float32 parameters have no master copy")
    state = tensors((count,), dtype, master)
    exact_state = [None if t is None else t.double() for t in state]
    exact = run(adamw_step_reference, exact_state)
    for mine, plain, best in zip(
        run(adamw_step, state), run(adamw_step_reference, state), exact, strict=True
    ):
        assert_as_accurate(mine, plain, best)


def test_float64_equals_the_reference() -> None:
    state = tensors((5, 9), torch.float64, False)
    for mine, plain in zip(run(adamw_step, state), run(adamw_step_reference, state), strict=True):
        torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_param_is_the_rounding_of_its_master(isa: str, dtype: torch.dtype) -> None:
    if dtype == torch.float32:
        pytest.skip("float32 parameters have no master copy")
    param, _, _, master = run(adamw_step, tensors((300,), dtype, True))
    assert torch.equal(param, master.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_at_any_thread_count(isa: str, dtype: torch.dtype) -> None:
    state = tensors((200, 301), dtype, dtype != torch.float32)
    assert_same_bits_at_any_thread_count(lambda: run(adamw_step, state))


@given(
    count=st.integers(0, 80), scale=st.floats(0.0, 4.0), step=st.integers(1, 10**6), seed=st.integers(0, 99)
)
@settings(max_examples=25, deadline=None)
def test_grad_scale_is_scaling_the_gradient(count: int, scale: float, step: int, seed: int) -> None:
    state = tensors((count,), torch.float32, False, seed)
    folded = run(adamw_step, state, grad_scale=scale, step=step)
    state[1] = state[1] * scale
    for a, b in zip(folded, run(adamw_step, state, grad_scale=1.0, step=step), strict=True):
        assert torch.equal(a, b)


def test_strided_gradient(isa: str) -> None:
    state = tensors((6, 10), torch.float32, False)
    expected = run(adamw_step, state)
    padded = torch.zeros(10, 6)
    padded.t().copy_(state[1])
    param, exp_avg, exp_avg_sq = (state[i].clone() for i in (0, 2, 3))
    adamw_step(param, padded.t(), exp_avg, exp_avg_sq, **OPTIONS, step=7, grad_scale=0.5)
    for mine, best in zip((param, exp_avg, exp_avg_sq), expected, strict=True):
        assert torch.equal(mine, best)


def test_opcheck() -> None:
    numbers = ([3], [], 0.02, 0.9, 0.99, 1e-6, 0.1, 1.0)
    for dtype, master in ((torch.float32, False), (torch.bfloat16, True)):
        lists = [[] if t is None else [t] for t in tensors((4, 5), dtype, master)]
        torch.library.opcheck(torch.ops.pyllm.adamw_step_.default, (*lists, *numbers))


def test_many_tensors_are_one_after_another(isa: str) -> None:
    shapes = [(3,), (0,), (200, 301), (16384,), (5, 7)]
    states = [tensors(shape, torch.bfloat16, True, seed) for seed, shape in enumerate(shapes)]
    expected = [run(adamw_step, state, step=i + 1) for i, state in enumerate(states)]
    params, grads, exp_avgs, exp_avg_sqs, masters = zip(*states, strict=True)
    steps = range(1, len(shapes) + 1)
    adamw_steps(params, grads, exp_avgs, exp_avg_sqs, **OPTIONS, steps=steps, grad_scale=0.5, masters=masters)
    for mine, best in zip(zip(params, exp_avgs, exp_avg_sqs, masters, strict=True), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, best, strict=True))
    with pytest.raises(ValueError, match="one entry for each of 5 params"):
        adamw_steps(params, grads[:2], exp_avgs, exp_avg_sqs, **OPTIONS, steps=steps)


def rounded(value: float, count: int, seed: int, step: int) -> torch.Tensor:
    """`count` bfloat16 zeros after a step that makes each of them `value`, rounded stochastically."""
    param, moments = torch.zeros(count, dtype=torch.bfloat16), torch.zeros(2, count)
    options = {"betas": (0.0, 0.0), "eps": 0.0, "weight_decay": 0.0}
    grad = torch.ones_like(param)
    adamw_step(param, grad, *moments, lr=-value, **options, step=step, rounding_seed=seed)
    return param


def test_stochastic_rounding_is_right_on_average(isa: str) -> None:
    value = 1 + 0.3 / 128  # 0.3 of the way from 1 to the next bfloat16
    found = rounded(value, 40_000, seed=5, step=1)
    assert set(found.tolist()) == {1.0, 1.0078125}
    share = (found > 1).double().mean().item()
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / 40_000) ** 0.5
    assert set(rounded(1.5, 1000, seed=5, step=1).tolist()) == {1.5}
    assert rounded(float("nan"), 300, seed=5, step=1).isnan().all()


def test_stochastic_rounding_depends_on_seed_step_and_place_alone(isa: str) -> None:
    value = 1 + 0.3 / 128
    whole = rounded(value, 40_000, seed=5, step=2)
    assert torch.equal(rounded(value, 700, seed=5, step=2), whole[:700])
    assert not torch.equal(rounded(value, 40_000, seed=6, step=2), whole)
    assert not torch.equal(rounded(value, 40_000, seed=5, step=3), whole)
    assert_same_bits_at_any_thread_count(lambda: [rounded(value, 40_000, seed=5, step=2)])
    with _library.forced_isa("scalar"):
        assert torch.equal(rounded(value, 40_000, seed=5, step=2), whole)
    with pytest.raises(TypeError, match="rounding_seed is for bfloat16"):
        adamw_step(*tensors((3,), torch.float32, False)[:4], **OPTIONS, step=1, rounding_seed=0)


def test_compiles_with_dynamic_shapes() -> None:
    def f(param: torch.Tensor, grad: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        adamw_step(param, grad * 2, m, v, **OPTIONS, step=1)
        return param + 1

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (6, 11):
        ours, theirs = (tensors((count,), torch.float32, False)[:4] for _ in range(2))
        torch.testing.assert_close(compiled(*ours), f(*theirs))
        torch.testing.assert_close(ours, theirs)


def test_bad_input_is_named() -> None:
    def refuses(kind: type[Exception], words: str, index: int, bad: Any, **changes: Any) -> None:
        state = tensors((4, 6), torch.bfloat16, True)
        state[index] = bad
        before = [None if t is None else t.clone() for t in state]
        param, grad, exp_avg, exp_avg_sq, master = state
        with pytest.raises(kind, match=words):
            adamw_step(param, grad, exp_avg, exp_avg_sq, master=master, **{**OPTIONS, "step": 1, **changes})
        for now, then in zip(state, before, strict=True):
            torch.testing.assert_close(now, then)

    good = tensors((4, 6), torch.bfloat16, True)
    refuses(TypeError, "grad must have the dtype", 1, good[1].float())
    refuses(ValueError, "grad must have the shape", 1, good[1][:3])
    refuses(TypeError, "exp_avg must be torch.float32", 2, good[2].bfloat16())
    refuses(ValueError, "exp_avg_sq must have the shape", 3, good[3][:3])
    refuses(ValueError, "param must be contiguous", 0, good[0].view(6, 4).t())
    refuses(ValueError, "master must be contiguous", 4, good[4].view(6, 4).t())
    refuses(ValueError, "step must be >= 1", 1, good[1], step=0)
    with pytest.raises(TypeError, match="master is for"):
        adamw_step(*tensors((3,), torch.float32, False)[:4], **OPTIONS, step=1, master=torch.ones(3))
    integers = torch.ones(3, dtype=torch.int64)
    with pytest.raises(TypeError, match="param must be"):
        adamw_step(integers, integers, torch.ones(3), torch.ones(3), **OPTIONS, step=1)
