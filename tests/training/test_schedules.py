from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyllm.training import TrainingConfig
from pyllm.training.config import SCHEDULES
from pyllm.training.schedules import learning_rate_at, seed_at


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        ("linear", "linear", {}),
        ("cosine", "cosine", {}),
        ("constant", "constant_with_warmup", {}),
        ("cosine", "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ("warmup_stable_decay", "warmup_stable_decay", {"num_decay_steps": 30}),
    ],
)
@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_schedules_follow_transformers(ours: str, theirs: str, options: dict, warmup_steps: int) -> None:
    """Ours rises to the full rate one step earlier, since a first step at rate 0 does nothing; then they agree."""
    transformers = pytest.importorskip("transformers")
    config = TrainingConfig(
        max_steps=100, learning_rate=0.5, lr_scheduler_type=ours, warmup_steps=warmup_steps, **options
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    their_options = {**options, "decay_type": "linear"} if ours == "warmup_stable_decay" else options
    schedule = transformers.get_scheduler(
        theirs,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=100,
        scheduler_specific_kwargs=their_options,
    )
    for step in range(100):
        if step >= warmup_steps:
            assert learning_rate_at(step, config) == pytest.approx(
                schedule.get_last_lr()[0], rel=1e-9, abs=1e-12
            )
        else:
            assert learning_rate_at(step, config) == pytest.approx(0.5 * (step + 1) / warmup_steps)
        optimizer.step()
        schedule.step()


@given(
    st.sampled_from(SCHEDULES),
    st.integers(1, 50),
    st.integers(0, 60),
    st.floats(0, 1),
    st.none() | st.integers(0, 60),
)
def test_rates_stay_in_range_and_only_fall_after_warmup(kind, max_steps, warmup, floor, decay) -> None:
    config = TrainingConfig(
        max_steps=max_steps,
        learning_rate=2.0,
        lr_scheduler_type=kind,
        warmup_steps=warmup,
        min_lr_rate=floor,
        num_decay_steps=decay,
    )
    rates = [learning_rate_at(step, config) for step in range(max_steps)]
    assert all(0 < rate <= 2.0 for rate in rates[:warmup])
    assert all(2.0 * floor - 1e-9 <= rate <= 2.0 + 1e-9 for rate in rates[warmup:]) or kind == "constant"
    after = rates[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))


def test_seeds_of_steps_differ() -> None:
    config = TrainingConfig(max_steps=1, seed=5)
    seeds = {seed_at(step, config) for step in range(1000)}
    assert len(seeds) == 1000
    assert seed_at(3, config) == seed_at(3, config) != seed_at(3, TrainingConfig(max_steps=1, seed=6))
