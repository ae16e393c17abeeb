"""Where a run begins: afresh, or at a checkpoint that belongs to the same data and seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from pyllm.data.batch import Rows
from pyllm.training.checkpoint import TrainingState, latest
from pyllm.training.config import TrainingConfig


def checkpoint_to_resume(config: TrainingConfig) -> Path | None:
    """The folder that `config` asks to continue from, None for a fresh start.

    Raises FileExistsError when `output_dir` holds a run that was not asked to be resumed, so that two runs
    never mix.
    """
    asked = config.resume_from_checkpoint
    if isinstance(asked, (str, Path)):
        return Path(asked)
    if config.output_dir is None:
        if asked:
            raise ValueError("resume_from_checkpoint: True needs output_dir")
        return None
    output_dir = Path(config.output_dir)
    if not asked:
        refuse_a_run_in(output_dir)
    return latest(output_dir)


def refuse_a_run_in(output_dir: Path) -> None:
    """Raises FileExistsError when `output_dir` holds a checkpoint, so that two runs never mix."""
    found = latest(output_dir)
    if found is not None:
        raise FileExistsError(
            f"{str(output_dir)!r} holds a run ({found.name}): resume it or choose another folder"
        )


def check_belongs(state: TrainingState, seed: int, data_fingerprint: str) -> None:
    """Raises ValueError when a checkpoint was made with another seed or other data."""
    if state.seed != seed:
        raise ValueError(f"seed: the checkpoint was trained with seed {state.seed}, got {seed}")
    if state.data_fingerprint != data_fingerprint:
        raise ValueError(
            "train_data: not the rows (data, tokenizer, sequence length) that the checkpoint was trained on"
        )


def data_fingerprint(rows: Rows) -> str:
    """A hash of the number of rows and of 16 rows spread over the data: cheap, and other data is noticed."""
    digest = hashlib.sha256(str(len(rows)).encode())
    for index in np.linspace(0, len(rows) - 1, num=min(16, len(rows)), dtype=np.int64):
        for field in rows[int(index)]:
            digest.update(np.ascontiguousarray(field).tobytes() + b"|")
    return digest.hexdigest()
