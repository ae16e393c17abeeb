"""The benchmarks time things that compute the same: ours against plain PyTorch on every case."""

from __future__ import annotations

import pytest
import torch
from pyllm.bench.case import Case
from pyllm.bench.report import cases_of, op_names

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 4e-2}  # of the largest value


@pytest.mark.parametrize("op", op_names())
def test_ours_equals_plain(op: str) -> None:
    cases = cases_of(op)
    assert cases
    for case in cases:
        assert case.moved_bytes > 0
        assert case.flops > 0
        if case.same_result:
            _assert_same(case)
        else:
            assert case.ours(*case.inputs).shape == case.plain(*case.inputs).shape


def _assert_same(case: Case) -> None:
    ours, plain = case.results(case.ours), case.results(case.plain)
    for mine, theirs in zip(ours, plain, strict=True):
        allowed = TOLERANCE[case.dtype] * theirs.abs().max().item()
        assert (mine.float() - theirs.float()).abs().max().item() <= allowed, case.name
