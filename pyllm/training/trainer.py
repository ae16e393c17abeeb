"""The training loop.

    every step:  gradients <- sum over micro-batches of d(weighted_sum)        the objective
                 gradients <- gradients / weight_count of the whole step       the only division
                 clip, set the learning rate, update, evaluate, report, save

A step is a function of (weights, moments, step, data position, seed) and nothing else: which rows it reads
and what dropout draws follow from these, so a resumed run repeats the bits of one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from pyllm.data.batch import Rows, collate
from pyllm.data.packing import rows_at
from pyllm.ops import gradient_norm
from pyllm.optim import AdamW, clip_coefficient
from pyllm.training import checkpoint
from pyllm.training.config import TrainingConfig
from pyllm.training.held_out import held_out_loss
from pyllm.training.objectives import Objective
from pyllm.training.optimizer import default_optimizer
from pyllm.training.report import OnStep, StepListener, StepReport, listener
from pyllm.training.resume import check_belongs, checkpoint_to_resume, data_fingerprint
from pyllm.training.schedules import learning_rate_at, seed_at


@dataclass(frozen=True)
class TrainingResult:
    """Steps done, the last losses (means in nats per unit of weight; None: not measured) and the last checkpoint."""

    step: int
    train_loss: float | None
    eval_loss: float | None
    checkpoint: Path | None


class HasNetwork(Protocol):
    """A `pyllm.Model`: its network is what is trained."""

    network: Any


class Trainer:
    """Trains `model` (a module, or a `pyllm.Model`) on `train_data`, a sequence of `pyllm.data.Row`s, by an
    objective (see `pyllm.training.objectives`).

    Weights, gradients and moments keep the parameters' own dtype (give it an fp32 model); `config.bf16`
    computes in bfloat16 under autocast. `optimizer` defaults to AdamW, weight decay on matrices only. After
    each step every callback (a function, or an object with `on_step`) gets a `StepReport`. `save_model(model,
    folder)` and `load_model(model, folder)` write and read the model's own files of a checkpoint.
    """

    def __init__(
        self,
        model: torch.nn.Module | HasNetwork,
        objective: Objective,
        train_data: Rows,
        config: TrainingConfig,
        *,
        eval_data: Rows | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        callbacks: Sequence[OnStep | StepListener] = (),
        save_model: Callable[[torch.nn.Module, Path], object] = checkpoint.save_weights,
        load_model: Callable[[torch.nn.Module, Path], object] = checkpoint.load_weights,
    ) -> None:
        if len(train_data) == 0:
            raise ValueError("train_data: expected at least one row, got none")
        if eval_data is not None and len(eval_data) == 0:
            raise ValueError("eval_data: expected at least one row or None, got no rows")
        network: Any = model if isinstance(model, torch.nn.Module) else model.network
        if config.activation_checkpointing != "none":
            if not hasattr(network, "activation_checkpointing"):
                raise ValueError(
                    "activation_checkpointing: this model has no such attribute, expected 'none'"
                )
            network.activation_checkpointing = config.activation_checkpointing
        self.model, self.objective, self.config = network, objective, config
        self.train_data, self.eval_data = train_data, eval_data
        self.optimizer = optimizer or default_optimizer(network, config)
        self.callbacks = [listener(callback) for callback in callbacks]
        self.save_model, self.load_model = save_model, load_model
        self.device = next(network.parameters()).device

    def train(self) -> TrainingResult:
        """Runs until `config.max_steps`; a run resumed at or after its last step returns at once.

        Raises FloatingPointError, before the weights are touched, when a gradient is not finite.
        """
        config, (state, folder) = self.config, self._begin()
        self.model.train()
        with torch.random.fork_rng():
            if config.eval_on_start and state.step == 0:
                self._report(StepReport(0, config.max_steps, eval_loss=self._evaluate()))
            while state.step < config.max_steps:
                started = time.perf_counter()
                torch.manual_seed(seed_at(state.step, config))
                loss, norm, tokens, scale = self._compute_gradients(state.position)
                rate = self._update(state.step, scale)
                speed = tokens / (time.perf_counter() - started)
                state = state.after(config.rows_per_step, loss)
                eval_loss = self._evaluate() if config.is_due(config.eval_steps, state.step) else None
                state = state if eval_loss is None else replace(state, eval_loss=eval_loss)
                self._report(
                    StepReport(state.step, config.max_steps, loss, eval_loss, rate, norm, tokens, speed)
                )
                if config.output_dir is not None and config.is_due(config.save_steps, state.step):
                    folder = self._save(state)
        return TrainingResult(state.step, state.train_loss, state.eval_loss, folder)

    def _compute_gradients(self, position: int) -> tuple[float, float, int, float]:
        """Leaves the gradients of the step's weighted sum in `.grad`; returns loss, norm before clipping, tokens
        read, and the factor that divides and clips the gradients.
        """
        config, size = self.config, self.config.per_device_train_batch_size
        self.optimizer.zero_grad()
        loss = weight = torch.zeros((), device=self.device)
        tokens = 0
        for start in range(position, position + config.rows_per_step, size):
            rows = [self.train_data[row] for row in rows_at(start, size, len(self.train_data), config.seed)]
            batch = collate(rows).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
                weighted_sum, weight_count = self.objective(self.model, batch)
            weighted_sum.backward()
            loss, weight = loss + weighted_sum.detach(), weight + weight_count
            tokens += sum(len(row.token_ids) for row in rows)
        if not weight > 0:
            raise ValueError(f"train_data: rows at {position} hold no token with a loss weight above 0")
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(gradient_norm(gradients)) / float(weight)
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"gradient norm is {norm} (loss {float(loss / weight)}) at position {position}"
            )
        scale = clip_coefficient(norm, config.max_grad_norm or math.inf) / float(weight)
        return float(loss / weight), norm, tokens, scale

    def _update(self, step: int, grad_scale: float) -> float:
        rate = learning_rate_at(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if isinstance(self.optimizer, AdamW):
            self.optimizer.step(grad_scale=grad_scale)  # in the same pass over the gradients
            return rate
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(grad_scale)
        self.optimizer.step()
        return rate

    def _evaluate(self) -> float | None:
        if self.eval_data is None:
            return None
        size, bf16 = self.config.per_device_eval_batch_size, self.config.bf16
        return held_out_loss(self.model, self.objective, self.eval_data, size, bf16=bf16)

    def _begin(self) -> tuple[checkpoint.TrainingState, Path | None]:
        fingerprint = data_fingerprint(self.train_data)
        folder = checkpoint_to_resume(self.config)
        if folder is None:
            return checkpoint.TrainingState(0, 0, self.config.seed, fingerprint), None
        state = checkpoint.read_state(folder)
        check_belongs(state, self.config.seed, fingerprint)
        checkpoint.restore(folder, self.model, self.optimizer, self.load_model)
        return state, folder

    def _save(self, state: checkpoint.TrainingState) -> Path:
        folder, keep = Path(str(self.config.output_dir)), self.config.save_total_limit
        return checkpoint.save(folder, state, self.model, self.optimizer, self.save_model, keep=keep)

    def _report(self, report: StepReport) -> None:
        for callback in self.callbacks:
            callback(report)
