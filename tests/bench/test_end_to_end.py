"""The end-to-end contenders train the same network on the same batch, and their tables say what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pyllm.bench.end_to_end import (
    contenders,
    generation,
    generators,
    shakespeare,
    step_profile,
    throughput,
    time_to_loss,
    training_step,
)
from pyllm.bench.roofline import Peaks, Roofline

import pyllm

# By the names that processes of their own find.
from bench.end_to_end.turns import in_turns
from bench.end_to_end.workers import Worker

TEXT = "".join(chr(97 + i * i // 100 % 26) for i in range(4000))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shape with two narrow layers and a few tokens."""
    for name, shape in contenders.SHAPES.items():
        config = replace(
            shape.config,
            vocab_size=151,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=16,
        )
        monkeypatch.setitem(contenders.SHAPES, name, contenders.Shape(config, 2, 9))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("precision", contenders.PRECISIONS)
@pytest.mark.parametrize("name", contenders.SHAPES)
def test_steps_learn_and_rivals_have_as_many_weights(name: str, precision: str) -> None:
    shape = contenders.shape_of(name)
    theirs = contenders._transformers_model(shape.config)
    assert sum(p.numel() for p in theirs.parameters()) == shape.config.num_parameters()
    for contender in (contenders.OURS, contenders.EAGER, contenders.PATCHED, contenders.PATCHED_LINEAR):
        step = contenders.make_step(contender, shape, precision)
        first = step()
        assert abs(first - math.log(151)) < 0.3
        assert [step() for _ in range(3)][-1] < first
    pyllm.unpatch()


def test_shakespeare_contenders_walk_together() -> None:
    """Ours and plain PyTorch start from the same weights and stay together for some steps."""
    ids = torch.tensor([ord(character) - 97 for character in TEXT])
    batches = [(ids[i : i + 128].view(2, 64), ids[i + 1 : i + 129].view(2, 64)) for i in range(4)]
    runs = [shakespeare.make_run(name, 26) for name in (shakespeare.OURS, shakespeare.EAGER)]
    for number, (inputs, targets) in enumerate(batches):
        losses = [run.loss(inputs, targets).item() for run in runs]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for run in runs:
            run.step(number, inputs, targets)
    assert losses[0] < math.log(26)


def test_time_to_loss_counts_steps_until_the_target(tmp_path) -> None:
    (tmp_path / "text").write_text(TEXT)
    text = shakespeare.Characters(tmp_path / "text")
    assert len(text.train) == 3600
    clock = iter(range(100))

    def make_run(name: str, vocab_size: int) -> shakespeare.Run:
        assert vocab_size == 26
        return shakespeare.Run(lambda *_: None, lambda *_: torch.tensor(2.0 - 0.1 * next(clock)))

    (progress,) = time_to_loss.race(["pyllm"], text, make_run, 1.85, 400)
    assert progress.reached(1.85) == (150, progress.seconds)
    assert [step for step, _, _ in progress.curve] == [50, 100, 150]
    assert time_to_loss.table([progress], 1.85).row_count == 1


def test_measured_medians() -> None:
    rows = [training_step.Measured("pyllm", [2.0, 1.0, 9.0], 100), training_step.Measured("x", [4.0], 300)]
    assert rows[0].median == 2.0
    assert training_step.table(rows, contenders.shape_of("gpt2-30m"), "title").row_count == 2


def _holding(megabytes: int) -> Callable[[], object]:
    held = torch.ones(megabytes << 18)
    return lambda: held.sum()


def test_a_worker_reports_its_own_memory() -> None:
    with Worker(_holding, 200, threads=1) as worker:
        assert worker.seconds_of() > 0
        assert 200 << 20 <= worker.peak_bytes() < 300 << 20


def test_generators_give_each_request_its_tokens(tiny_folder: Path) -> None:
    names = [name for name in generators.able(tiny_folder) if name != generators.CTRANSLATE2]
    assert names == [generators.OURS, generators.TRANSFORMERS, generators.TRANSFORMERS_FP32]
    for name in names:
        generators.make_generator(name, tiny_folder, 1, 40)([([1, 2, 3], 4), ([5], 2)])
    with pytest.raises(RuntimeError, match="expected"):
        generators._check([[1]], [([1, 2, 3], 4)])


def test_turns_time_every_workload(tiny_folder: Path) -> None:
    works = [throughput.workload(3, 8, 4), [([1, 2, 3], 2)]]
    works[0] = [([token % 7 for token in prompt], count) for prompt, count in works[0]]
    timings = in_turns([generators.OURS], tiny_folder, works, 2, 1)
    assert [timing.rounds for timing in timings[generators.OURS]] == [2, 2]


def test_generation_rows() -> None:
    rows = [generation.Measured("pyllm", 100.0, 10.0), generation.Measured("x", 50.0, 20.0)]
    assert generation.table(rows, "title").row_count == 2


@pytest.mark.usefixtures("small")
def test_profile_accounts_for_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = Peaks(1, 1e10, 1e10, {"fma_fp32": 1e11})
    monkeypatch.setattr(step_profile, "measure_roofline", lambda: Roofline("avx2", peaks, peaks))
    found = step_profile.measure("smollm2-135m", "fp32", "none", None, torch.get_num_threads())
    assert sum(part.seconds for part in found.parts) == pytest.approx(found.seconds)
    parts = {part.name: part for part in found.parts}
    config, tokens = contenders.shape_of("smollm2-135m").config, 18
    head = config.vocab_size * config.hidden_size
    matrices = config.num_parameters(embeddings=False) - (2 * 2 + 1) * config.hidden_size
    flops = sum(part.flops for name, part in parts.items() if name.startswith("linear,"))
    assert flops == 6 * tokens * matrices
    loss_flops = sum(part.flops for name, part in parts.items() if name.startswith("linear_cross_entropy"))
    assert loss_flops == 6 * tokens * head
    assert step_profile.table(found).row_count > 5


def test_our_state_names_every_weight() -> None:
    plain = shakespeare.PlainGPT(26)
    ours = shakespeare.our_state(plain)
    assert sum(weight.numel() for weight in ours.values()) == sum(p.numel() for p in plain.parameters())
