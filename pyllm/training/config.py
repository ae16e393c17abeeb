"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

CHECKPOINTING = ("none", "selective", "full")
SCHEDULES = ("constant", "linear", "cosine", "warmup_stable_decay")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of `pyllm.Trainer`, named as in `transformers.TrainingArguments` where they mean the same.

    One optimizer step uses `per_device_train_batch_size * gradient_accumulation_steps` rows. `warmup_steps`
    and `min_lr_rate` (the share of `learning_rate` left at the end) hold for every schedule;
    `num_decay_steps` is for warmup_stable_decay, None meaning a fifth of the steps. `eval_steps` and
    `save_steps` of 0 mean only at the end; without `output_dir` nothing is written. `resume_from_checkpoint`
    is a step folder, or True for the latest one in `output_dir` (none there yet: the run starts afresh).
    `activation_checkpointing` sets the network's ("selective" or "full", see `pyllm.models.Transformer`); "none"
    leaves it as it is.

    Raises ValueError naming the field when a value is out of range or not finite, TypeError when it has a
    wrong type.
    """

    max_steps: int
    output_dir: str | Path | None = None
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 3e-4
    lr_scheduler_type: str = "cosine"
    warmup_steps: int = 0
    min_lr_rate: float = 0.0
    num_decay_steps: int | None = None
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    bf16: bool = False
    activation_checkpointing: str = "none"
    seed: int = 42
    logging_steps: int = 10
    eval_steps: int = 0
    eval_on_start: bool = False
    save_steps: int = 0
    save_total_limit: int = 1
    resume_from_checkpoint: bool | str | Path | None = None

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _check_integer(name, getattr(self, name), at_least=1)
        for name in _AT_LEAST_ZERO:
            _check_integer(name, getattr(self, name), at_least=0)
        for name, (low, high) in _RANGES.items():
            _check_number(name, getattr(self, name), low, high)
        if self.num_decay_steps is not None:
            _check_integer("num_decay_steps", self.num_decay_steps, at_least=0)
        for name, known in (("lr_scheduler_type", SCHEDULES), ("activation_checkpointing", CHECKPOINTING)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        for name in ("bf16", "eval_on_start"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")

    @property
    def rows_per_step(self) -> int:
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def is_due(self, every: int, step: int) -> bool:
        """Whether something done `every` so many steps, and always after the last one, is done after `step` steps."""
        return step == self.max_steps or (every > 0 and step % every == 0)


_AT_LEAST_ONE = (
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "save_total_limit",
)
_AT_LEAST_ZERO = ("warmup_steps", "seed", "eval_steps", "save_steps")
_BELOW_ONE = math.nextafter(1.0, 0.0)
_RANGES = {
    "learning_rate": (0.0, math.inf),
    "weight_decay": (0.0, math.inf),
    "adam_epsilon": (0.0, math.inf),
    "max_grad_norm": (0.0, math.inf),
    "min_lr_rate": (0.0, 1.0),
    "adam_beta1": (0.0, _BELOW_ONE),
    "adam_beta2": (0.0, _BELOW_ONE),
}


def _check_integer(name: str, value: object, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name}: expected at least {at_least}, got {value}")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not (math.isfinite(value) and low <= value <= high):
        limit = (
            "finite and not negative"
            if high == math.inf
            else f"between {low:g} and {high:g}" + (" (exclusive)" if high == _BELOW_ONE else "")
        )
        raise ValueError(f"{name}: expected a value {limit}, got {value}")
