from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.training import TrainingConfig

NUMBERS = [
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "min_lr_rate",
]
COUNTS = [
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "warmup_steps",
    "num_decay_steps",
    "seed",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "save_total_limit",
]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1e-9])
def test_numbers_out_of_range_name_their_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}: .*got {value}"):
        TrainingConfig(**{"max_steps": 1, field: value})


@pytest.mark.parametrize("field", ["adam_beta1", "adam_beta2"])
def test_betas_stay_below_one(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        TrainingConfig(**{"max_steps": 1, field: 1.0})


@given(st.sampled_from(COUNTS), st.integers(-1000, -1))
def test_negative_counts_name_their_field(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field}: expected at least"):
        TrainingConfig(**{"max_steps": 1, field: value})


@pytest.mark.parametrize("field", [*NUMBERS, *COUNTS, "bf16", "eval_on_start"])
def test_wrong_types_name_their_field(field: str) -> None:
    with pytest.raises(TypeError, match=f"{field}: expected"):
        TrainingConfig(**{"max_steps": 1, field: "3"})


def test_unknown_schedule() -> None:
    with pytest.raises(ValueError, match=r"lr_scheduler_type: expected one of .*got 'polynomial'"):
        TrainingConfig(max_steps=1, lr_scheduler_type="polynomial")


def test_names_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    ours = {field.name for field in dataclasses.fields(TrainingConfig)}
    # There these two travel in lr_scheduler_kwargs, and eval_on_start is spelled the same.
    assert ours - theirs == {"min_lr_rate", "num_decay_steps"}


def test_unknown_activation_checkpointing_names_its_field() -> None:
    with pytest.raises(ValueError, match="activation_checkpointing: expected one of"):
        TrainingConfig(max_steps=1, activation_checkpointing="some")
