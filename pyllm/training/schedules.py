"""Learning rate and random seed as pure functions of the step."""

from __future__ import annotations

import math

import numpy as np

from pyllm.training.config import TrainingConfig


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Learning rate of optimizer step `step` (the first is 0).

        constant  /-------    linear  /\\__    cosine  /~\\_    warmup_stable_decay  /-----\\_

    All rise linearly over `warmup_steps` (the first step already moves) and end at `min_lr_rate *
    learning_rate`. warmup_stable_decay: Hu et al. 2024, MiniCPM, section 4, with a linear decay.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    floor = 0.0 if config.lr_scheduler_type == "constant" else config.min_lr_rate
    return config.learning_rate * (floor + (1.0 - floor) * _remaining(step, config))


def _remaining(step: int, config: TrainingConfig) -> float:
    decay_steps = config.max_steps - config.warmup_steps
    if config.lr_scheduler_type == "warmup_stable_decay":
        share = math.ceil(config.max_steps / 5) if config.num_decay_steps is None else config.num_decay_steps
        decay_steps = min(share, decay_steps)
    left = min(1.0, (config.max_steps - step) / max(1, decay_steps))
    if config.lr_scheduler_type == "constant":
        return 1.0
    if config.lr_scheduler_type == "cosine":
        return 0.5 * (1.0 - math.cos(math.pi * left))
    return left


def seed_at(step: int, config: TrainingConfig) -> int:
    """Seed of the generator that dropout draws from in step `step`: no generator state needs saving."""
    return int(np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0])
