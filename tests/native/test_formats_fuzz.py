"""Block formats under sanitizers: tensors of any bits and sizes. `python -m tests.native.fuzz_formats` runs longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.fuzz_formats import write_corpus
from tests.native.sanitize import build, run
from tests.native.test_native import needs_tools


@needs_tools
@pytest.mark.slow
def test_damaged_blocks(tmp_path: Path) -> None:
    program = build("address,undefined", tmp_path / "build", target="formats_blocks")
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus")
    assert "nothing found" in run(str(program), str(tmp_path / "corpus"), "5")
