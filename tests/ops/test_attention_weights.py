"""The softmax's 2^x, seen through the op: keys whose base-2 score is the key itself, values that show the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyllm.ops import attention

BLOCK = 256  # keys that share one maximum
SCALE = math.log(2.0)  # makes the score in base 2 the dot product itself


def weights_of(scores: Tensor) -> Tensor:
    """(rows, BLOCK) weights as multiples of the first, whose score is 0 and the largest."""
    k = scores[:, None, :, None]
    q = torch.ones_like(k[:, :, :1])
    v = torch.eye(BLOCK, dtype=k.dtype).expand(k.shape[0], 1, BLOCK, BLOCK)
    out = attention(q, k, v, scale=SCALE)[:, 0, 0].double()
    return out / out[:, :1]


def rows_of(scores: Tensor) -> Tensor:
    rows = scores.view(-1, BLOCK - 1)
    return torch.cat([torch.zeros_like(rows[:, :1]), rows], 1)


def test_float32_weights_are_good_to_two_ulps(isa: str) -> None:
    g = torch.Generator().manual_seed(0)
    scores = rows_of(-118 * torch.rand(200 * (BLOCK - 1), generator=g))
    exact = torch.exp2(scores.double())
    error = (weights_of(scores) / exact - 1).abs()
    # Weight, its quotient by the sum, and the first weight's quotient: 1.1 + 0.5 + 0.5 ulp, and scalar exact.
    assert error.max() < 2.1 * 2.0**-23


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_weights_are_good_to_a_part_of_their_rounding(isa: str, dtype: torch.dtype) -> None:
    # All scores of a row equal and in (-1, 0]: the sum of weights, which lse shows in float32, is BLOCK of one.
    scores = -torch.arange(256, dtype=torch.float32) / 256
    k = scores.to(dtype)[:, None, None, None].expand(-1, 1, BLOCK, 1)
    _, lse = attention(torch.ones_like(k[:, :, :1]), k, k, scale=SCALE, return_lse=True)
    error = torch.exp(lse[:, 0, 0].double() - math.log(BLOCK) - scores.double() * math.log(2.0)) - 1
    assert error.abs().max() < 2.0**-13.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_too_small_are_zero(isa: str, dtype: torch.dtype) -> None:
    if isa == "scalar":
        pytest.skip("the reference keeps denormals")
    scores = rows_of(torch.linspace(-500, -127, BLOCK - 1)).to(dtype)
    scores[0, -5:] = torch.tensor([-torch.inf, -1e5, -1e30, -3e38, -127.5]).to(dtype)
    assert not weights_of(scores)[:, 1:].any()
