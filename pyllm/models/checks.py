"""Checks of configuration fields; each error names the field."""

from __future__ import annotations

import math
from typing import Any


def check_counts(config: object, *names: str) -> None:
    """Positive integers."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_positive(config: object, *names: str) -> None:
    """Positive finite numbers."""
    for name in names:
        if not _is_positive(getattr(config, name)):
            raise ValueError(f"{name} must be a positive number, got {getattr(config, name)!r}")


def check_numbers(config: object, *names: str) -> None:
    """Tuples of positive finite numbers."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, tuple) or not all(map(_is_positive, value)):
            raise ValueError(f"{name} must be a tuple of positive numbers, got {value!r}")


def check_flags(config: object, *names: str) -> None:
    """Booleans."""
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name} must be True or False, got {getattr(config, name)!r}")


def check_choices(config: object, **choices: tuple[str, ...]) -> None:
    """Each named field is one of its choices."""
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise ValueError(f"{name} must be one of {known}, got {getattr(config, name)!r}")


def check_token_ids(config: Any) -> None:
    """bos_token_id, pad_token_id and eos_token_ids."""
    for name in ("bos_token_id", "pad_token_id"):
        if not isinstance(getattr(config, name), (int, type(None))):
            raise ValueError(f"{name} must be an integer or None, got {getattr(config, name)!r}")
    if not all(isinstance(token, int) for token in config.eos_token_ids):
        raise ValueError(f"eos_token_ids must be integers, got {config.eos_token_ids!r}")


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value > 0
