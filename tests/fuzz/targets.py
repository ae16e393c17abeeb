"""All cases by name."""

from __future__ import annotations

from tests.fuzz import differential, model_files, tiktoken_differential, tokenizer_files
from tests.fuzz.harness import Case

CASES: dict[str, Case] = {
    **tokenizer_files.CASES,
    **differential.CASES,
    **tiktoken_differential.CASES,
    **model_files.CASES,
}
