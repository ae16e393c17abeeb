"""The tokenizer core under sanitizers: random texts, vocabularies and added tokens, and damaged files of every form.

`python -m tests.native.fuzz_tokenizers SECONDS` runs longer, `make fuzz` what Python reads.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.fuzz_tokenizers import write_corpus
from tests.native.sanitize import build, run
from tests.native.test_native import needs_tools


@needs_tools
@pytest.mark.slow
def test_damaged_files(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    program = build("address,undefined", tmp_path / "build", target="tokenizers_loaders")
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus", count=2)
    assert "nothing found" in run(str(program), str(tmp_path / "corpus"), "4")


@needs_tools
@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_random_texts_and_vocabularies(sanitizer: str, tmp_path: Path) -> None:
    program = build(sanitizer, tmp_path, target="tokenizers_core")
    assert "nothing found" in run(str(program), "300")
