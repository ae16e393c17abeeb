from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pyllm.data import Row, collate
from pyllm.models import Transformer, preset
from pyllm.training import StepReport, Trainer, TrainingConfig, language_modelling
from pyllm.training.checkpoint import optimizer_tensors
from tests.training.tiny import build, cross_entropy, rows

DATA = rows(64)


def trainer(model: torch.nn.Module, objective=cross_entropy, data=DATA, **options) -> Trainer:
    arguments = {
        name: options.pop(name) for name in ("eval_data", "callbacks", "save_model") if name in options
    }
    settings = TrainingConfig(**{"max_steps": 4, "learning_rate": 1e-2, **options})
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    return Trainer(model, objective, data, settings, optimizer=optimizer, **arguments)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_accumulation_does_not_change_the_gradient(seed: int) -> None:
    results = {}
    for size, accumulation in [(8, 1), (4, 2), (2, 4), (1, 8)]:
        model = build()
        trainer(
            model,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            seed=seed,
            max_grad_norm=0.0,
        ).train()
        results[size] = gradients(model)
    for size in (4, 2, 1):
        for name, expected in results[8].items():
            torch.testing.assert_close(results[size][name], expected, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05])
def test_own_optimizer_divides_and_clips_as_it_updates(max_grad_norm: float) -> None:
    """pyllm's AdamW takes the factor along; any other optimizer gets gradients that were multiplied by it."""
    models = [build(), build()]
    options = {"max_steps": 4, "learning_rate": 1e-2, "max_grad_norm": max_grad_norm, "weight_decay": 0.0}
    Trainer(models[0], cross_entropy, DATA, TrainingConfig(**options)).train()
    trainer(models[1], **options).train()
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_activation_checkpointing_reaches_the_network() -> None:
    model = Transformer(preset("tiny", vocab_size=64))
    config = TrainingConfig(max_steps=1, activation_checkpointing="full")
    Trainer(model, language_modelling, DATA, config)
    assert model.activation_checkpointing == "full"
    with pytest.raises(ValueError, match="activation_checkpointing: this model has no such attribute"):
        Trainer(build(), cross_entropy, DATA, config)


def test_gradient_is_that_of_the_weighted_mean() -> None:
    """Against autograd on the whole step at once in fp64; a mean of micro-batch means would be far off."""
    reference, model = build().double(), build()
    weighted_sum, weight = cross_entropy(reference, collate(DATA))
    (weighted_sum / weight).backward()
    trainer(
        model, max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=64, max_grad_norm=0.0
    ).train()
    expected, actual = gradients(reference), gradients(model)
    for name in expected:
        torch.testing.assert_close(actual[name].double(), expected[name], rtol=1e-4, atol=1e-6)

    naive = build().double()
    for row in DATA:
        weighted_sum, weight = cross_entropy(naive, collate([row]))
        if weight > 0:
            (weighted_sum / weight / len(DATA)).backward()
    distance = (gradients(naive)["head.weight"] - expected["head.weight"]).norm() / expected[
        "head.weight"
    ].norm()
    assert distance > 0.1


def test_clipping_matches_torch() -> None:
    clipped, model = build(), build()
    weighted_sum, weight = cross_entropy(clipped, collate(DATA[:8]))
    (weighted_sum / weight).backward()
    norm = torch.nn.utils.clip_grad_norm_(clipped.parameters(), 0.05)
    assert norm > 0.1
    reports: list[StepReport] = []
    one_epoch = trainer(
        model,
        data=DATA[:8],
        max_steps=1,
        per_device_train_batch_size=8,
        max_grad_norm=0.05,
        callbacks=[reports.append],
    )
    one_epoch.train()
    assert reports[0].grad_norm == pytest.approx(float(norm), rel=1e-5)
    for name, expected in gradients(clipped).items():
        torch.testing.assert_close(gradients(model)[name], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("interruption", [1, 5, 9])
def test_resume_repeats_the_bits(tmp_path: Path, interruption: int) -> None:
    options = {"max_steps": 12, "save_steps": 1, "save_total_limit": 20, "gradient_accumulation_steps": 2}
    whole = build(dropout=0.3)
    run = trainer(whole, output_dir=tmp_path / "whole", eval_data=rows(5, seed=9), eval_steps=3, **options)
    whole_result = run.train()

    resumed = build(seed=1, dropout=0.3)
    torch.manual_seed(interruption)
    continued = trainer(
        resumed,
        output_dir=tmp_path / "rest",
        eval_data=rows(5, seed=9),
        eval_steps=3,
        resume_from_checkpoint=tmp_path / "whole" / f"step-{interruption:06d}",
        **options,
    )
    result = continued.train()

    assert (result.step, result.train_loss, result.eval_loss) == (
        whole_result.step,
        whole_result.train_loss,
        whole_result.eval_loss,
    )
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    moments = optimizer_tensors(whole, run.optimizer)
    assert len(moments) > 10
    for name, moment in optimizer_tensors(resumed, continued.optimizer).items():
        assert torch.equal(moment, moments[name]), name
    for file in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/state.json"):
        last = "step-000012"
        assert (tmp_path / "whole" / last / file).read_bytes() == (
            tmp_path / "rest" / last / file
        ).read_bytes()


def test_dropout_follows_the_seed_and_leaves_the_callers_generator_alone() -> None:
    losses = []
    for seed in (3, 3, 4):
        before = torch.get_rng_state()
        losses.append(trainer(build(dropout=0.5), seed=seed).train().train_loss)
        assert torch.equal(before, torch.get_rng_state())
    assert losses[0] == losses[1] != losses[2]


def test_training_learns_and_reports() -> None:
    reports: list[StepReport] = []

    class Listener:
        def on_step(self, report: StepReport) -> None:
            reports.append(report)

    result = trainer(
        build(),
        max_steps=60,
        eval_data=rows(8, seed=5),
        eval_steps=20,
        eval_on_start=True,
        warmup_steps=5,
        callbacks=[Listener()],
    ).train()
    assert [report.step for report in reports] == list(range(61))
    evaluations = {report.step: report.eval_loss for report in reports if report.eval_loss is not None}
    assert list(evaluations) == [0, 20, 40, 60]
    assert evaluations[60] < 0.5 * evaluations[0]
    assert result.eval_loss == evaluations[60]
    assert reports[60].tokens_per_second > 0
    assert reports[1].learning_rate == pytest.approx(1e-2 / 5)


def test_bf16_keeps_fp32_weights_and_learns() -> None:
    seen = set()

    def objective(model, batch):
        hidden = model.hidden_states(batch.token_ids, document_ids=batch.document_ids)
        seen.add((hidden @ model.lm_head_weight.T).dtype)
        return cross_entropy(model, batch)

    model = build()
    start = cross_entropy(model, collate(DATA))[0].item()
    trainer(model, objective, max_steps=40, bf16=True).train()
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert cross_entropy(model, collate(DATA))[0].item() < 0.5 * start


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change() -> None:
    model = build()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def objective(model, batch):
        weighted_sum, weight = cross_entropy(model, batch)
        return weighted_sum * float("nan"), weight

    with pytest.raises(FloatingPointError, match="gradient norm is nan"):
        trainer(model, objective).train()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_no_supervised_token_is_an_error() -> None:
    blank = [Row(row.token_ids, np.zeros_like(row.loss_weights), row.document_ids) for row in DATA]
    with pytest.raises(ValueError, match="loss weight above 0"):
        trainer(build(), data=blank).train()
    with pytest.raises(ValueError, match="eval_data"):
        trainer(build(), eval_data=blank).train()


def test_empty_data_and_bad_callbacks_are_errors() -> None:
    with pytest.raises(ValueError, match="train_data"):
        trainer(build(), data=[])
    with pytest.raises(ValueError, match="eval_data"):
        trainer(build(), eval_data=[])
    with pytest.raises(TypeError, match="callbacks"):
        trainer(build(), callbacks=[3])


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    model = build()
    model.embedding.requires_grad_(False)
    before, head = model.embedding.weight.clone(), model.head.weight.clone()
    trainer(model, output_dir=tmp_path).train()
    assert torch.equal(model.embedding.weight, before)
    assert not torch.equal(model.head.weight, head)
