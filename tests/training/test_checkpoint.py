from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pyllm.training import Trainer, TrainingConfig
from pyllm.training.checkpoint import latest, save_weights
from tests.training.tiny import build, cross_entropy, rows


def train(output_dir: Path | None, *, data=None, save_model=save_weights, model=None, **options):
    model = model or build()
    config = TrainingConfig(**{"max_steps": 4, "output_dir": output_dir, **options})
    optimizer = torch.optim.AdamW(model.parameters())
    data = data or rows(16)
    return Trainer(model, cross_entropy, data, config, optimizer=optimizer, save_model=save_model).train()


def test_layout_and_only_the_latest_kept(tmp_path: Path) -> None:
    result = train(tmp_path, save_steps=1)
    assert result.checkpoint == tmp_path / "step-000004"
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "step-000004/model.safetensors",
        "step-000004/trainer/optimizer.safetensors",
        "step-000004/trainer/state.json",
    ]
    train(tmp_path / "two", save_steps=1, save_total_limit=2)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["step-000003", "step-000004"]


def test_nothing_is_written_without_output_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(None, save_steps=1).checkpoint is None
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_last_one(tmp_path: Path) -> None:
    def full_disk(model: torch.nn.Module, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        if folder.name.startswith(".step-000003"):
            raise OSError(28, "No space left on device")
        save_weights(model, folder)

    with pytest.raises(OSError, match="No space"):
        train(tmp_path, save_steps=1, save_model=full_disk)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_leftovers_of_a_kill_are_swept_and_never_resumed(tmp_path: Path) -> None:
    for name in (".step-000099.unfinished", ".step-000098.removed"):
        (tmp_path / name).mkdir()
    assert latest(tmp_path) is None
    train(tmp_path, resume_from_checkpoint=True)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004"]


def test_resuming_a_finished_run_returns_its_result(tmp_path: Path) -> None:
    first = train(tmp_path)
    before = (tmp_path / "step-000004" / "trainer" / "state.json").stat().st_mtime_ns
    again = train(tmp_path, resume_from_checkpoint=True)
    assert again == first
    assert (tmp_path / "step-000004" / "trainer" / "state.json").stat().st_mtime_ns == before
    assert train(tmp_path, resume_from_checkpoint=True, max_steps=5).step == 5


def test_two_runs_never_mix(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(FileExistsError, match=r"holds a run \(step-000004\)"):
        train(tmp_path)
    with pytest.raises(ValueError, match="seed: the checkpoint was trained with seed 42, got 1"):
        train(tmp_path, resume_from_checkpoint=True, seed=1)
    with pytest.raises(ValueError, match="train_data"):
        train(tmp_path, resume_from_checkpoint=True, data=rows(16, seed=3))


def test_a_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    from tests.training.tiny import TinyModel

    with pytest.raises(ValueError, match="does not fit the model"):
        train(tmp_path, resume_from_checkpoint=True, model=TinyModel(width=8), max_steps=5)


@pytest.mark.parametrize("file", ["trainer/state.json", "trainer/optimizer.safetensors", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b'{"step": 3}', b"\xff" * 64])
def test_a_damaged_checkpoint_is_a_clear_error(tmp_path: Path, file: str, content: bytes) -> None:
    train(tmp_path)
    (tmp_path / "step-000004" / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged|does not fit"):
        train(tmp_path, resume_from_checkpoint=True, max_steps=5)


def test_missing_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="resume_from_checkpoint"):
        train(None, resume_from_checkpoint=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="resume_from_checkpoint: True needs output_dir"):
        train(None, resume_from_checkpoint=True)
    train(tmp_path)
    (tmp_path / "step-000004" / "model.safetensors").unlink()
    with pytest.raises((ValueError, OSError), match=r"model\.safetensors|step-000004"):
        train(tmp_path, resume_from_checkpoint=True, max_steps=5)


def test_optimizer_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.head.weight]["history"] = [1, 2]
    config = TrainingConfig(max_steps=1, output_dir=tmp_path)
    with pytest.raises(TypeError, match=r"optimizer: state 'history' of 'head.weight' is a list"):
        Trainer(model, cross_entropy, rows(8), config, optimizer=optimizer).train()
    assert list(tmp_path.iterdir()) == []


def test_state_says_where_the_run_stands(tmp_path: Path) -> None:
    result = train(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=3)
    state = json.loads((tmp_path / "step-000004" / "trainer" / "state.json").read_text())
    assert (state["step"], state["position"], state["seed"]) == (4, 24, 42)
    assert state["train_loss"] == result.train_loss


def test_optimizers_with_little_state_resume_too(tmp_path: Path) -> None:
    for name, options in [("plain", {}), ("momentum", {"momentum": 0.9})]:
        results = []
        for folder, steps in [("whole", (6,)), ("parts", (3, 6))]:
            for max_steps in steps:
                model = build()
                config = TrainingConfig(
                    max_steps=max_steps,
                    output_dir=tmp_path / name / folder,
                    lr_scheduler_type="constant",
                    resume_from_checkpoint=True,
                )
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **options)
                Trainer(model, cross_entropy, rows(16), config, optimizer=optimizer).train()
            results.append(model.state_dict())
        assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
