"""A run killed with SIGKILL, within a save and anywhere, and resumed ends in the bits of one left alone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyllm.training.checkpoint import latest
from tests.assets import REPOSITORY
from tests.training.run_to_be_killed import STEPS, main

LAST = f"step-{STEPS:06d}"
FILES = ("model.safetensors", "config.json", "trainer/optimizer.safetensors", "trainer/state.json")


def run(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.training.run_to_be_killed", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


def kill_after(line: str, process: subprocess.Popen[str], delay: float = 0.0) -> None:
    with process:
        said = next((said for said in process.stdout or () if said.startswith(line)), None)
        time.sleep(delay)
        process.kill()
    assert said is not None


def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main(whole)

    kill_after("saving .step-000009", run(killed, 9))
    assert (killed / ".step-000009.unfinished" / "model.safetensors").exists()
    assert latest(killed) == killed / "step-000008"

    kill_after("done 13", run(killed), delay=random.uniform(0.0, 0.1))
    reached = latest(killed)
    assert reached is not None
    assert reached.name >= "step-000012"

    capsys.readouterr()
    main(killed)
    output = capsys.readouterr().out
    assert output.endswith(f"finished {STEPS}\n")
    assert "done 11\n" not in output
    assert [path.name for path in killed.iterdir()] == [LAST]
    for file in FILES:
        assert (killed / LAST / file).read_bytes() == (whole / LAST / file).read_bytes(), file
