"""All cases by name."""

from __future__ import annotations

from tests.fuzz import differential, model_files, tokenizer_files
from tests.fuzz.harness import Case

CASES: dict[str, Case] = {**tokenizer_files.CASES, **differential.CASES, **model_files.CASES}
