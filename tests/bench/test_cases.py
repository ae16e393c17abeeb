"""The benchmarks time things that compute the same: ours against every rival, on every kind of case."""

from __future__ import annotations

import pytest
import torch
from pyllm.bench.case import OURS, Case, tensors
from pyllm.bench.report import able, cases_of, op_names, small_cases_of
from pyllm.bench.rivals import COMPILED, FLEX

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 4e-2, torch.float16: 4e-3}  # of the largest value


@pytest.mark.parametrize("op", op_names())
def test_ours_equals_its_rivals(op: str) -> None:
    cases = small_cases_of(op)
    assert cases
    for case in cases:
        calls = {name: call for name, call in case.build().items() if name not in (COMPILED, FLEX)}
        results = {name: tensors(call()) for name, call in calls.items()}
        for name in calls.keys() - {OURS}:
            _assert_same(case, results[OURS], results[name])


def _assert_same(case: Case, ours: list[torch.Tensor], plain: list[torch.Tensor]) -> None:
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine.shape == theirs.shape, case.name
        if case.same_result:
            allowed = TOLERANCE[case.dtype] * theirs.abs().max().item()
            assert (mine.float() - theirs.float()).abs().max().item() <= allowed, case.name


@pytest.mark.parametrize("op", op_names())
def test_every_case_says_what_it_takes(op: str) -> None:
    quick, every = cases_of(op), cases_of(op, full=True)
    assert quick
    assert {case.name for case in quick} <= {case.name for case in every}
    for case in every:
        assert case.moved_bytes > 0, case.name
        assert case.flops > 0, case.name
    labels = [(case.name, case.direction, case.quick) for case in every]
    assert len(labels) == len(set(labels))


@pytest.mark.slow
def test_flex_attention_computes_the_same() -> None:
    """The one rival that needs a compiler: forward only, and it says so for the backward."""
    for case in small_cases_of("attention_masks"):
        calls = case.build()
        if FLEX not in calls:
            continue
        ran, unavailable = able(calls)
        assert (FLEX in unavailable) == (case.direction != "forward"), (case.name, unavailable)
        if FLEX in ran:
            _assert_same(case, tensors(ran[OURS]()), tensors(ran[FLEX]()))
