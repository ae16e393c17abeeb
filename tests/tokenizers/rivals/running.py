"""Runs test files of another project in a process of its own, with pyllm in the place of that project's package."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.assets import REPOSITORY


def run(
    package: str, root: Path, files: Iterable[str], deselected: Iterable[str], work: Path
) -> dict[str, int]:
    """How many tests passed, were skipped and so on, by pytest's words. Raises AssertionError if one failed.

    root: the folder that the project's paths are relative to; deselected: names of tests as pytest spells them.
    """
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "--rootdir", str(root), "-o", "addopts="]
    options += [f"--deselect={name}" for name in deselected] + [str(root / file) for file in files]
    program = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        f"from tests.tokenizers.rivals import plugin; plugin.adapt({package!r})\n"
        f"sys.path.remove({str(REPOSITORY)!r}); import pytest; sys.exit(pytest.main({options!r}, [plugin]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=work,
        env={"PATH": "/usr/bin:/bin", "TIKTOKEN_MAX_EXAMPLES": "50"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    summary = result.stdout.strip().splitlines()[-1]
    return {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", summary)}
