"""A few seconds of each random case about tokenizers; `make fuzz` runs them for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import tokenizer_files
from tests.fuzz.harness import run_case

CASES_EACH = 60


@pytest.mark.parametrize("name", tokenizer_files.CASES)
def test_damaged_files_are_loaded_or_refused(name: str, tmp_path: Path) -> None:
    for seed in range(CASES_EACH):
        run_case(name, tokenizer_files.CASES[name], seed, tmp_path / "case")
