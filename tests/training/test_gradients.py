from __future__ import annotations

import pytest
import torch

from pyllm.training.gradients import gradient_norm, scale_gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_matches_fp64_at_any_thread_count(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = [(700, 300), (3,), (1,), (65_536,), (5, 7, 11), (0,)]
    gradients = [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]
    expected = float(torch.cat([g.double().flatten() for g in gradients]).norm())
    threads = torch.get_num_threads()
    try:
        norms = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            norms.append(gradient_norm(gradients))
    finally:
        torch.set_num_threads(threads)
    assert norms[0] == pytest.approx(expected, rel=1e-6)
    assert len(set(norms)) == 1


def test_norm_of_nothing_and_of_what_is_not_finite() -> None:
    assert gradient_norm([]) == 0.0
    assert not gradient_norm([torch.ones(4), torch.tensor([float("inf")])]) < float("inf")
    assert gradient_norm([torch.tensor([float("nan")])]) != gradient_norm([torch.tensor([float("nan")])])


def test_scaling_is_in_place() -> None:
    gradient = torch.ones(3)
    scale_gradients([gradient], 0.25)
    assert gradient.tolist() == [0.25] * 3
