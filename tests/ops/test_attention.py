from __future__ import annotations

import pytest
import torch

from tests.ops.attention_cases import VARIANTS, Case, ours, plain
from tests.ops.numerics import check_op

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def check_case(case: Case, dtype: torch.dtype) -> None:
    def with_seed(q: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return plain(seeded)(q, *rest)

    seeded = case
    if case.options.get("dropout_p"):
        torch.manual_seed(5)
        seed = torch.randint(0, 2**62, (), dtype=torch.int64)
        seeded = Case(**{**vars(case), "options": {**case.options, "dropout_seed": seed}})

    def op(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(5)
        return ours(case)(*inputs)

    check_op(op, with_seed, case.inputs(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_error_rule(isa: str, case: Case, dtype: torch.dtype) -> None:
    check_case(case, dtype)
