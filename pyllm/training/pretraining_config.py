"""The settings of a pretraining run, from keywords, command-line flags or a TOML file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyllm.models import ModelConfig, preset
from pyllm.training.config import TrainingConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Tried on the standard library with the demo preset for 90 seconds, see docs/training.md. Wider models take smaller
# steps: with Adam the best rate falls about as 1 / width (Yang et al. 2022, Tensor Programs V).
_RATE_TIMES_WIDTH = 3e-3 * 192
# Set by the fields of PretrainingConfig, so they have no second place in its `training` table.
_TRAINING_FIXED = {
    "max_steps",
    "output_dir",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "resume_from_checkpoint",
    "save_steps",
    "seed",
}


@dataclass(frozen=True)
class PretrainingConfig:
    """What `pretrain` does.

    Attributes:
        out: folder for everything the run writes.
        data: files and folders of text (see `pyllm.data.read_pieces`); none means Python's standard library.
        tokenizer: a tokenizer file; None trains a byte-level BPE of `vocab_size` tokens on the data.
        preset: name of a model configuration; `model` replaces fields of it.
        steps: optimizer steps; None means as many as `max_seconds` allows, or one pass over the data.
        max_seconds: time for the training itself. A few steps are timed, then the number of steps is fixed, so that
            the schedule does not depend on the clock any further.
        batch_size: rows per micro-batch; sequence_length: tokens per row.
        validation_fraction: share of the text held out; at most `validation_rows` rows of it are used.
        save_every: steps between checkpoints, None for ten in a run.
        training: other fields of `TrainingConfig`.

    Raises ValueError or TypeError naming the field that is out of range, unknown or of a wrong type.
    """

    out: str
    data: Sequence[str] = ()
    tokenizer: str | None = None
    vocab_size: int = 8192
    preset: str = "demo"
    model: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    max_seconds: float | None = None
    batch_size: int = 4
    sequence_length: int = 256
    validation_fraction: float = 0.02
    validation_rows: int = 24
    seed: int = 42
    save_every: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = sorted(_TRAINING_FIXED & set(self.training))
        if twice:
            raise ValueError(
                f"training: {', '.join(twice)} cannot be set there; pretraining has settings of its own"
            )
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds: expected a positive number, got {self.max_seconds}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction: expected 0 <= fraction < 1, got {self.validation_fraction}"
            )
        for name in ("sequence_length", "vocab_size", "validation_rows"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive integer, got {getattr(self, name)!r}")
        self.training_config(1 if self.steps is None else self.steps)

    def training_config(self, steps: int, **changes: Any) -> TrainingConfig:
        """The trainer's settings for a run of `steps` steps."""
        every = max(1, steps // 10)
        width = self.model_config(self.vocab_size, None).hidden_size
        settings = {
            "warmup_steps": min(100, steps // 10),
            "eval_steps": every,
            "eval_on_start": True,
            "logging_steps": max(1, steps // 400),
            "learning_rate": _RATE_TIMES_WIDTH / width,
            "lr_scheduler_type": "warmup_stable_decay",
            "num_decay_steps": steps // 2,
            **self.training,
            "max_steps": steps,
            "output_dir": self.out,
            "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": self.batch_size,
            "save_steps": every if self.save_every is None else self.save_every,
            "seed": self.seed,
            **changes,
        }
        return _build(TrainingConfig, "training", settings)

    def model_config(self, vocab_size: int, end_of_text: int | None) -> ModelConfig:
        """The model's shapes, for a tokenizer with `vocab_size` ids."""
        config = preset(self.preset)
        resized = {"hidden_size", "num_attention_heads"} & set(self.model)
        settings = {
            "head_dim": None if resized else config.head_dim,
            "max_position_embeddings": max(config.max_position_embeddings, self.sequence_length),
            "eos_token_ids": () if end_of_text is None else (end_of_text,),
            **self.model,
            "vocab_size": vocab_size,
        }
        return _build(ModelConfig, "model", {**dataclasses.asdict(config), **settings})


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Fields of `PretrainingConfig` from a TOML file: plain keys, and the tables [model] and [training].

    Raises ValueError for a file that is not TOML or has unknown keys; the message names the file.
    """
    try:
        settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"config: {str(path)!r} is not TOML: {error}") from error
    _check_names(PretrainingConfig, f"config {str(path)!r}", settings)
    return settings


def _build(kind: Any, where: str, settings: Mapping[str, Any]) -> Any:
    _check_names(kind, where, settings)
    return kind(**settings)


def _check_names(kind: Any, where: str, settings: Mapping[str, Any]) -> None:
    known = sorted(item.name for item in dataclasses.fields(kind))
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; expected names among {', '.join(known)}")
