"""Pretraining from text to a model folder: tokenizer, token store, packed rows, transformer, trainer, export.

What lies in the output folder:

    run.json        the settings, and the number of steps once it is fixed
    tokenizer.json  config.json  model.safetensors     the finished model
    metrics.jsonl   loss.png                           the curve
    step-N/         the latest checkpoint, to resume from
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pyllm.checkpoints import save_checkpoint
from pyllm.checkpoints.atomic import atomic_path
from pyllm.data import PackedRows, Row, Rows, TokenStore, read_pieces, split, tokenize
from pyllm.models import ModelConfig, Transformer
from pyllm.tokenizers import Tokenizer
from pyllm.training.checkpoint import latest, read_state
from pyllm.training.objectives import language_modelling
from pyllm.training.plot import plot_losses
from pyllm.training.pretraining_config import PretrainingConfig
from pyllm.training.report import (
    MetricsFile,
    OnStep,
    StepListener,
    StepReport,
    progress_bar,
    read_metrics,
    spinner,
)
from pyllm.training.resume import refuse_a_run_in
from pyllm.training.trainer import Trainer, TrainingResult

END_OF_TEXT = "<|endoftext|>"
RUN_FILE = "run.json"
# These may change between a run and its continuation: they do not touch the bits, or the data itself is
# compared.
_FREE_TO_CHANGE = {"out", "data", "tokenizer", "steps", "max_seconds", "save_every"}
_TIMED_STEPS = 6
# Share of max_seconds for training and evaluation; the rest is for checkpoints and the timed steps themselves.
_SHARE_FOR_STEPS = 0.9
# A run evaluates 11 times, and a row costs a third there of what it costs with a backward pass.
_EVALUATIONS = 11 / 3


@dataclass(frozen=True)
class PretrainingResult:
    """Where the finished model is and what went into it; `plot` is None, with the reason, when none could be drawn."""

    folder: Path
    training: TrainingResult
    parameters: int
    train_tokens: int
    validation_tokens: int
    plot: Path | None
    plot_problem: str | None


def pretrain(
    config: PretrainingConfig, *, resume: bool = False, callbacks: Sequence[OnStep | StepListener] = ()
) -> PretrainingResult:
    """Trains a language model from nothing and leaves it in `config.out`, a folder that transformers loads
    too.

    `resume` continues the run in `config.out` at its latest checkpoint, with the same bits as one that was
    never stopped; nothing saved yet starts afresh, and a finished run comes back as it is.

    Raises FileExistsError when `config.out` holds a run and `resume` is off, ValueError when the settings
    differ from those of the run to resume, and what reading the data raises.
    """
    out = Path(config.out)
    if not (resume and (out / RUN_FILE).exists()):
        _refuse_a_model_in(out)
    planned_steps = _steps_of_run(out, config) if resume else None
    out.mkdir(parents=True, exist_ok=True)

    tokenizer = _tokenizer(config, out, reuse=resume)
    end_of_text = tokenizer.eos_token_id
    if end_of_text is None:
        raise ValueError(f"tokenizer: {config.tokenizer!r} has no end-of-text token to put between documents")
    with spinner("tokenizing"):
        store = tokenize(config.data, tokenizer, end_of_text)
    train_pieces, validation_pieces = split(store, config.validation_fraction)
    train_rows = PackedRows(store, train_pieces, config.sequence_length, seed=config.seed)
    validation_rows = _first_rows(store, validation_pieces, config)
    model_config = config.model_config(tokenizer.vocab_size, end_of_text)

    steps = (
        config.steps or planned_steps or _plan_steps(config, model_config, train_rows, len(validation_rows))
    )
    _write_run_file(out, config, steps)
    training = config.training_config(steps, resume_from_checkpoint=resume or None)

    def save_model(model: torch.nn.Module, folder: Path) -> None:
        save_checkpoint(model, folder)
        tokenizer.save(folder / "tokenizer.json")

    model = _new_model(model_config, config.seed)
    metrics = MetricsFile(
        out / "metrics.jsonl", every=training.logging_steps, resumed_step=_step_reached(out)
    )
    with progress_bar("pretraining") as show:
        trained = Trainer(
            model,
            language_modelling,
            train_rows,
            training,
            eval_data=validation_rows or None,
            callbacks=(metrics, show, *callbacks),
            save_model=save_model,
        ).train()
    save_model(model, out)
    plot, problem = _plot(out, config, train_rows.tokens, model_config.num_parameters())
    return PretrainingResult(
        folder=out,
        training=trained,
        parameters=model_config.num_parameters(),
        train_tokens=train_rows.tokens,
        validation_tokens=sum(len(row.token_ids) for row in validation_rows),
        plot=plot,
        plot_problem=problem,
    )


def describe(result: PretrainingResult) -> str:
    """A few lines for a person."""
    trained = result.training
    lines = [
        f"{result.parameters:,} parameters, {trained.step:,} steps on {result.train_tokens:,} tokens of text",
        f"training loss {trained.train_loss:.3f}",
    ]
    if trained.eval_loss is None:
        lines.append("no validation: the text is too short to hold some out")
    else:
        lines.append(
            f"validation loss {trained.eval_loss:.3f}, perplexity {math.exp(trained.eval_loss):,.1f}"
        )
    lines.append(f"model: {result.folder}")
    lines.append(f"loss curve: {result.plot}" if result.plot else f"no loss curve: {result.plot_problem}")
    return "\n".join(lines)


def _refuse_a_model_in(out: Path) -> None:
    refuse_a_run_in(out)
    for name in ("config.json", "model.safetensors"):
        if (out / name).exists():
            raise FileExistsError(f"out: {str(out)!r} holds a model ({name}); choose another folder")


def _tokenizer(config: PretrainingConfig, out: Path, *, reuse: bool) -> Tokenizer:
    """The tokenizer that `config` names, or one trained on the data and kept in `out`."""
    kept = out / "tokenizer.json"
    if config.tokenizer is not None:
        return Tokenizer.from_file(config.tokenizer)
    if reuse and kept.exists():
        return Tokenizer.from_file(kept)
    with spinner(f"training a tokenizer of {config.vocab_size:,} tokens"):
        # As bytes, since a str may also name a file.
        texts = (piece.text.encode() for piece in read_pieces(config.data))
        tokenizer = Tokenizer.train(texts, config.vocab_size, special_tokens=(END_OF_TEXT,))
    tokenizer.save(kept)
    return tokenizer


def _first_rows(store: TokenStore, pieces: np.ndarray, config: PretrainingConfig) -> list[Row]:
    if len(pieces) == 0:
        return []
    rows = PackedRows(store, pieces, config.sequence_length, seed=config.seed)
    return [rows[index] for index in range(min(len(rows), config.validation_rows))]


def _new_model(config: ModelConfig, seed: int) -> Transformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Transformer(config)


def _plan_steps(
    config: PretrainingConfig, model_config: ModelConfig, rows: Rows, validation_rows: int
) -> int:
    """Steps for one pass over the data, or for `max_seconds` at the speed of a few steps on a throw-away model."""
    training = replace(config.training_config(_TIMED_STEPS), output_dir=None, eval_on_start=False)
    if config.max_seconds is None:
        return math.ceil(len(rows) / training.rows_per_step)
    reports: list[StepReport] = []
    model = _new_model(model_config, config.seed)
    with spinner("timing a few steps"):
        Trainer(model, language_modelling, rows, training, callbacks=(reports.append,)).train()
    # The first steps also allocate memory and warm the caches.
    seconds = statistics.median(report.tokens / report.tokens_per_second for report in reports[2:])
    steps = _SHARE_FOR_STEPS * config.max_seconds / seconds
    evaluating = _EVALUATIONS * validation_rows / training.rows_per_step
    return max(1, int(max(steps - evaluating, steps / 2)))


def _write_run_file(out: Path, config: PretrainingConfig, steps: int) -> None:
    with atomic_path(out / RUN_FILE) as path:
        path.write_text(
            json.dumps({"settings": asdict(config), "planned_steps": steps}, indent=1, default=str)
        )


def _steps_of_run(out: Path, config: PretrainingConfig) -> int | None:
    """The number of steps that the run in `out` was planned for; raises ValueError when its settings were others."""
    path = out / RUN_FILE
    if not path.exists():
        return None
    try:
        run = json.loads(path.read_text())
        before, planned_steps = dict(run["settings"]), int(run["planned_steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"resume: {str(path)!r} is damaged: {error!r}") from error
    now = json.loads(json.dumps(asdict(config), default=str))
    for name in sorted(set(now) - _FREE_TO_CHANGE):
        if before.get(name) != now[name]:
            raise ValueError(
                f"resume: {name} was {before.get(name)!r} in the run to resume, got {now[name]!r}"
            )
    return planned_steps


def _step_reached(out: Path) -> int:
    folder = latest(out)
    return read_state(folder).step if folder else 0


def _plot(
    out: Path, config: PretrainingConfig, tokens: int, parameters: int
) -> tuple[Path | None, str | None]:
    title = f"{config.preset}: {parameters / 1e6:.1f} M parameters, {tokens / 1e6:.1f} M tokens of text"
    try:
        return plot_losses(read_metrics(out / "metrics.jsonl"), out / "loss.png", title=title), None
    except ImportError as error:
        return None, str(error)
