"""bfloat16 has products of its own at some levels: every mask again, and what NaN and infinity must not reach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pyllm.ops import attention
from tests.ops.attention_cases import VARIANTS, Case, ours, plain
from tests.ops.numerics import check_op

MASKS = [
    "full",
    "one_query",
    "more_queries_than_keys",
    "multi_query",
    "negative_scale",
    "wide_heads",
    "heads_of_128",
    "window_and_sinks",
    "prefix_per_row",
    "sink_logits",
    "softcap",
    "alibi",
    "lengths_causal",
    "boolean",
]
BY_NAME = {case.name: case for case in VARIANTS}
# Rows and keys past a tile, a strip, a block and a part of the keys.
LENGTH = 330


@pytest.mark.parametrize("name", MASKS)
def test_error_rule(isa: str, name: str) -> None:
    case = BY_NAME[name]
    check_op(ours(case), plain(case), case.inputs(torch.bfloat16))


def inputs(isa: str) -> tuple[Tensor, Tensor, Tensor, int]:
    length = 40 if isa == "scalar" else LENGTH
    case = Case("", batch=1, heads=4, kv_heads=2, q_len=length, kv_len=length, head_dim=24)
    q, k, v = (x for x in case.inputs(torch.bfloat16) if x is not None)
    return q, k, v, length


def run(q: Tensor, k: Tensor, v: Tensor, upstream: Tensor | None = None, **options: Any) -> list[Tensor]:
    """out and the gradients of q, k and v."""
    out = attention(q, k, v, **options)
    upstream = torch.ones_like(out) if upstream is None else upstream
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), upstream)]


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"window": 30, "sink_tokens": 3}, {"softcap": 2.0}],
    ids=["full", "causal", "window", "softcap"],
)
def test_non_finite_keys_behind_the_mask_do_not_change_bits(isa: str, options: dict[str, Any]) -> None:
    q, k, v, length = inputs(isa)
    hidden = torch.zeros(length, dtype=torch.bool)
    hidden[[3, length // 2, length - 20]] = True
    mask = ~hidden.expand(length, length)
    lengths = torch.tensor([length - 7])
    clean = run(q, k, v, attn_mask=mask, kv_lengths=lengths, **options)
    hidden[length - 7 :] = True
    with torch.no_grad():
        k[:, :, hidden], v[:, :, hidden] = torch.nan, torch.inf
    for a, b in zip(clean, run(q, k, v, attn_mask=mask, kv_lengths=lengths, **options), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("where", [0, 1, 2], ids=["q", "k", "v"])
def test_non_finite_inputs_reach_exactly_what_attends_to_them(isa: str, where: int, value: float) -> None:
    q, k, v, length = inputs(isa)
    clean = run(q, k, v, is_causal=True)
    at = length // 2
    with torch.no_grad():
        (q, k, v)[where][0, 0, at, 3] = value
    out, grad_q, grad_k, grad_v = run(q, k, v, is_causal=True)
    rows = torch.zeros(4, length, dtype=torch.bool)
    keys = torch.zeros(2, length, dtype=torch.bool)
    if where == 0:
        rows[0, at], keys[0, : at + 1] = True, True
    else:
        rows[:2, at:], keys[0] = True, True
    assert torch.equal(out[0][~rows], clean[0][0][~rows])
    assert torch.equal(grad_q[0][~rows], clean[1][0][~rows])
    assert torch.equal(grad_k[0][~keys], clean[2][0][~keys])
    assert torch.equal(grad_v[0][~keys], clean[3][0][~keys])
    if value != value:
        assert out[0].isnan().any(-1)[rows].all()
        assert grad_q[0].isnan().any(-1)[rows].all()


def test_upstream_nan_reaches_the_keys_of_its_row(isa: str) -> None:
    q, k, v, length = inputs(isa)
    upstream = torch.ones_like(q)
    clean = run(q, k, v, upstream, is_causal=True)
    at = length // 2
    upstream[0, 0, at, 3] = torch.nan
    _, grad_q, grad_k, grad_v = run(q, k, v, upstream, is_causal=True)
    assert grad_v[0, 0, : at + 1].isnan().any(-1).all()
    assert grad_k[0, 0, : at + 1].isnan().any(-1).all()
    assert grad_q[0, 0, at].isnan().any()
    for mine, before in ((grad_k, clean[2]), (grad_v, clean[3])):
        assert torch.equal(mine[0, 0, at + 1 :], before[0, 0, at + 1 :])
        assert torch.equal(mine[0, 1], before[0, 1])


def test_scale_of_zero_is_the_mean(isa: str) -> None:
    case = replace(BY_NAME["causal"], options={"is_causal": True, "scale": 0.0})
    check_op(ours(case), plain(case), case.inputs(torch.bfloat16))
