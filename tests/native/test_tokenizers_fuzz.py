"""Builds the tokenizer core with sanitizers and runs random texts, vocabularies and added tokens through it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.assets import REPOSITORY


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="c++ not installed")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_random_input_finds_nothing(sanitizer: str, tmp_path: Path) -> None:
    sources = [
        REPOSITORY / "tests/native/tokenizers/fuzz.cpp",
        *sorted((REPOSITORY / "csrc/tokenizers").glob("*.cpp")),
    ]
    options = ["-std=c++20", "-g", "-O1", "-Wall", "-Wextra", "-Werror", f"-fsanitize={sanitizer}"]
    build = ["c++", *options, "-fno-sanitize-recover=all", f"-I{REPOSITORY / 'csrc'}", *map(str, sources)]
    subprocess.run([*build, "-pthread", "-o", str(tmp_path / "fuzz")], check=True)
    done = subprocess.run([str(tmp_path / "fuzz"), "500"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found" in done.stdout
