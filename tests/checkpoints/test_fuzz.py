"""A few seconds of damaged model files; `make fuzz` runs them for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import model_files
from tests.fuzz.harness import run_case


@pytest.mark.parametrize("name", model_files.CASES)
def test_damaged_models_compute_or_are_refused(name: str, tmp_path: Path) -> None:
    for seed in range(60):
        run_case(name, model_files.CASES[name], seed, tmp_path / "case")
