from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pyllm.cli
from pyllm.tokenizers import Tokenizer
from pyllm.training import StepReport
from pyllm.training.pretraining import describe, pretrain
from pyllm.training.pretraining_config import PretrainingConfig, read_config_file
from pyllm.training.report import read_metrics

SHAPES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "numbers.jsonl"
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    with file.open("w") as stream:
        for number in range(400):
            digits = " ".join(words[int(digit)] for digit in str(number * 37))
            stream.write(json.dumps({"text": f"The number {number * 37} is written {digits}.\n"}) + "\n")
    return str(file)


def settings(out: Path, text: str, **changes) -> PretrainingConfig:
    config = PretrainingConfig(
        out=str(out),
        data=[text],
        vocab_size=300,
        preset="tiny",
        model=SHAPES,
        steps=12,
        batch_size=4,
        sequence_length=32,
        validation_fraction=0.1,
        validation_rows=8,
        training={"learning_rate": 1e-2},
        save_every=4,
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    pretrain(settings(out, text))
    return out


def test_a_run_leaves_a_model_its_curve_and_a_checkpoint(finished: Path) -> None:
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "metrics.jsonl",
        "loss.png",
        "run.json",
    } <= files
    assert {
        "step-000012/trainer/state.json",
        "step-000012/config.json",
        "step-000012/tokenizer.json",
    } <= files
    assert not any(file.startswith(".") or "step-000008" in file for file in files)
    losses = [line["eval_loss"] for line in read_metrics(finished / "metrics.jsonl") if line["eval_loss"]]
    assert losses[-1] < losses[0] - 0.5
    assert (finished / "model.safetensors").read_bytes() == (
        finished / "step-000012" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("folder", ["", "step-000012"])
def test_transformers_loads_it_with_equal_logits(finished: Path, folder: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(finished / folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished / folder)
    ours = pyllm.load(finished / folder, dtype="float32")
    text = "The number 3737 is written three seven"
    ids = ours.tokenizer.encode(text)
    assert tokenizer(text)["input_ids"] == ids
    with torch.no_grad():
        torch.testing.assert_close(
            ours(torch.tensor([ids])), theirs(torch.tensor([ids])).logits, rtol=1e-4, atol=1e-5
        )


def test_an_interrupted_run_resumes_to_the_same_bits(finished: Path, text: str, tmp_path: Path) -> None:
    def interrupt(report: StepReport) -> None:
        if report.step == 7:
            raise KeyboardInterrupt

    config = settings(tmp_path, text)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, callbacks=[interrupt])
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000004"]
    result = pretrain(config, resume=True)
    assert result.training.step == 12
    for file in ("model.safetensors", "step-000012/trainer/optimizer.safetensors"):
        assert (tmp_path / file).read_bytes() == (finished / file).read_bytes()
    ours, theirs = (read_metrics(folder / "metrics.jsonl") for folder in (tmp_path, finished))
    assert [(line["step"], line["loss"], line["eval_loss"]) for line in ours] == [
        (line["step"], line["loss"], line["eval_loss"]) for line in theirs
    ]


def test_resuming_what_is_finished_or_never_began(finished: Path, text: str, tmp_path: Path) -> None:
    before = (finished / "model.safetensors").read_bytes()
    assert pretrain(settings(finished, text), resume=True).training.step == 12
    assert (finished / "model.safetensors").read_bytes() == before
    assert pretrain(settings(tmp_path / "new", text, steps=1), resume=True).training.step == 1


def test_a_second_run_and_other_settings_are_refused(finished: Path, text: str) -> None:
    with pytest.raises(FileExistsError, match="holds a run"):
        pretrain(settings(finished, text))
    for changes, message in [
        ({"batch_size": 8}, "resume: batch_size was 4 in the run to resume, got 8"),
        ({"seed": 1}, "resume: seed was 42"),
        ({"model": {**SHAPES, "hidden_size": 64}}, "resume: model was"),
    ]:
        with pytest.raises(ValueError, match=message):
            pretrain(settings(finished, text, **changes), resume=True)


def test_a_model_of_someone_else_is_never_overwritten(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"holds a model \(model.safetensors\)"):
            pretrain(settings(tmp_path, text), resume=resume)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_steps_from_time_and_from_the_data(text: str, tmp_path: Path) -> None:
    timed = pretrain(settings(tmp_path / "timed", text, steps=None, max_seconds=0.5))
    assert timed.training.step >= 1
    planned = json.loads((tmp_path / "timed" / "run.json").read_text())["planned_steps"]
    assert planned == timed.training.step
    epoch = pretrain(settings(tmp_path / "epoch", text, steps=None, batch_size=64))
    rows = -(-(epoch.train_tokens - 1) // 32)
    assert epoch.training.step == -(-rows // 64)


def test_a_given_tokenizer_and_one_piece_of_text(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("The number 37 is written three seven. " * 20)
    config = settings(
        tmp_path / "out", str(tmp_path / "one.txt"), tokenizer=str(finished / "tokenizer.json"), steps=1
    )
    result = pretrain(config)
    assert result.validation_tokens == 0
    assert "too short to hold some out" in describe(result)
    kept, given = (Tokenizer.from_file(folder / "tokenizer.json") for folder in (tmp_path / "out", finished))
    assert kept.encode("number 37") == given.encode("number 37")


def test_without_matplotlib_everything_else_is_there(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = pretrain(settings(tmp_path, text, steps=1))
    assert result.plot is None
    assert 'pip install "pyllm[plot]"' in describe(result)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "max_steps: expected at least 1, got 0"),
        ({"batch_size": 0}, "per_device_train_batch_size: expected at least 1"),
        ({"sequence_length": 0}, "sequence_length"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"max_seconds": float("nan")}, "max_seconds"),
        ({"preset": "huge"}, "preset"),
        ({"model": {"layers": 3}}, "model: unknown layers"),
        ({"model": {"hidden_size": 33}}, "hidden_size"),
        ({"training": {"lr": 3}}, "training: unknown lr"),
        ({"training": {"seed": 3}}, "training: seed cannot be set there"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, "x", **changes)


def test_config_files(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('out = "x"\nsteps = 3\n[model]\nhidden_size = 32\n[training]\nbf16 = true\n')
    config = PretrainingConfig(**read_config_file(file))
    assert (config.steps, config.model, config.training) == (3, {"hidden_size": 32}, {"bf16": True})
    for content, message in [("steps = ", "run.toml' is not TOML"), ("step = 3", "unknown step")]:
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_config_file(file)


def test_the_command(finished: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        "vocab_size = 300\nsteps = 2\nvalidation_rows = 8\n"
        "[model]\nhidden_size = 32\nintermediate_size = 48\nnum_hidden_layers = 1\n"
    )
    command = [
        "pretrain",
        "--config",
        str(file),
        "--preset",
        "tiny",
        "--data",
        text,
        "--out",
        str(tmp_path / "out"),
    ]
    command += ["--batch-size", "2", "--seq-len", "32", "--seed", "7", "--save-every", "1"]
    assert pyllm.cli.main(command) == 0
    shown = capsys.readouterr()
    assert "2 steps" in shown.out
    assert "validation loss" in shown.out
    assert shown.err == ""
    assert pyllm.cli.main(command) == 2
    assert "holds a run" in capsys.readouterr().err
    assert pyllm.cli.main([*command, "--resume"]) == 0
    capsys.readouterr()
    for wrong in (
        ["--steps", "-1"],
        ["--data", str(tmp_path / "none")],
        ["--preset", "none"],
        ["--seq-len", "0"],
    ):
        arguments = ["pretrain", "--out", str(tmp_path / "wrong"), *wrong]
        assert pyllm.cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("pyllm: error: ")
        assert error.count("\n") == 1
