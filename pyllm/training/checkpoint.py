"""Checkpoints of a run: everything the next step depends on, in files that are data only.

    step-000100/  config.json  model.safetensors  tokenizer.json      what `save_model` writes: a model to load
                  trainer/optimizer.safetensors  trainer/state.json

A folder is written under a hidden name, flushed to disk, then renamed: a kill at any moment leaves the
folders that were complete before, and at worst a hidden one that the next save sweeps away.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch

_STEP = re.compile(r"step-(\d+)")
_LEFTOVER = re.compile(r"\.step-\d+\.(unfinished|removed)")


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands: steps done, rows read, and what a continuation must share with it."""

    step: int
    position: int
    seed: int
    data_fingerprint: str
    train_loss: float | None = None
    eval_loss: float | None = None

    def after(self, rows: int, train_loss: float) -> TrainingState:
        """The state one step and `rows` rows later."""
        return replace(self, step=self.step + 1, position=self.position + rows, train_loss=train_loss)


def latest(output_dir: Path) -> Path | None:
    """The checkpoint folder with the highest step in `output_dir`, None when there is none."""
    folders = [path for path in output_dir.glob("step-*") if _STEP.fullmatch(path.name)]
    return max(folders, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def save(
    output_dir: Path,
    state: TrainingState,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    save_model: Callable[[torch.nn.Module, Path], object],
    *,
    keep: int,
) -> Path:
    """Writes `output_dir/step-N`, then removes all but the `keep` latest checkpoints; returns the folder."""
    folder = output_dir / f"step-{state.step:06d}"
    with _atomic_folder(folder) as unfinished:
        save_model(model, unfinished)
        (unfinished / "trainer").mkdir()
        tensors = optimizer_tensors(model, optimizer)
        safetensors.torch.save_file(tensors, unfinished / "trainer" / "optimizer.safetensors")
        (unfinished / "trainer" / "state.json").write_text(json.dumps(asdict(state), indent=1))
    _sweep(output_dir, keep)
    return folder


def read_state(folder: Path) -> TrainingState:
    """Where the run of a checkpoint folder stands; raises FileNotFoundError or ValueError when it does not say."""
    try:
        return TrainingState(**json.loads((folder / "trainer" / "state.json").read_text()))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"resume_from_checkpoint: {str(folder)!r} is not a checkpoint of a run"
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"resume_from_checkpoint: {str(folder)!r} is damaged: {error}") from error


def restore(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    load_model: Callable[[torch.nn.Module, Path], object],
) -> None:
    """Loads weights and optimizer state from a checkpoint folder into `model` and `optimizer`, bit for bit."""
    try:
        tensors = safetensors.torch.load_file(folder / "trainer" / "optimizer.safetensors")
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"resume_from_checkpoint: {str(folder)!r} is damaged: {error}") from error
    load_model(model, folder)
    _load_optimizer_tensors(model, optimizer, tensors)


def save_weights(model: torch.nn.Module, folder: Path) -> None:
    """Writes `model.safetensors`; tied parameters once."""
    safetensors.torch.save_model(model, str(folder / "model.safetensors"))


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Reads what `save_weights` wrote into `model`; raises ValueError when names or shapes differ."""
    try:
        safetensors.torch.load_model(model, folder / "model.safetensors")
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{str(folder)!r} does not fit the model: {error}") from error


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state as flat tensors, named `parameter name:state name`; raises TypeError on state of another kind."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is None:  # as SGD without momentum has it
                continue
            if not isinstance(value, torch.Tensor):
                raise TypeError(
                    f"optimizer: state {key!r} of {name!r} is a {type(value).__name__}, not a tensor"
                )
            tensors[f"{name}:{key}"] = value.contiguous()
    return tensors


def _load_optimizer_tensors(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    # Not optimizer.load_state_dict: it casts moments to the parameter's dtype, which loses bits of fp32 moments.
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        name, key = full_name.rsplit(":", 1)
        if name not in parameters:
            raise ValueError(f"resume_from_checkpoint: the model has no parameter {name!r}")
        parameter = parameters[name]
        on_cpu = tensor.dim() == 0  # step counters stay where optimizers keep them
        optimizer.state[parameter][key] = tensor if on_cpu else tensor.to(parameter.device)


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for path in [*unfinished.rglob("*"), unfinished]:
            _flush(path)
        _remove(folder)
        os.rename(unfinished, folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Deletes a checkpoint such that a kill midway leaves none that looks complete."""
    if folder.exists():
        removed = folder.with_name(f".{folder.name}.removed")
        shutil.rmtree(removed, ignore_errors=True)
        os.rename(folder, removed)
        shutil.rmtree(removed)


def _sweep(output_dir: Path, keep: int) -> None:
    steps = sorted(
        (path for path in output_dir.iterdir() if _STEP.fullmatch(path.name)),
        key=lambda path: int(path.name.removeprefix("step-")),
    )
    for old in steps[:-keep]:
        _remove(old)
    for path in output_dir.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
