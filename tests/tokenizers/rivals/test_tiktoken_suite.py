"""tiktoken's own tests, run where they were unpacked, with pyllm in the place of tiktoken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.assets import asset
from tests.tokenizers.rivals.running import run

FILES = ("test_encoding.py", "test_misc.py", "test_offsets.py", "test_pickle.py", "test_simple_public.py")
_IMPORTS = "starts Python afresh and asks what importing tiktoken itself loads"
DESELECTED = {
    "tests/test_misc.py::test_optional_blobfile_dependency": _IMPORTS,
    "tests/test_simple_public.py::test_optional_blobfile_dependency": _IMPORTS,
}


@pytest.mark.slow
def test_tiktoken_suite(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    root = asset("tiktoken/tests/test_encoding.py").parent.parent
    counts = run("tiktoken", root, [f"tests/{file}" for file in FILES], DESELECTED, tmp_path)
    assert counts["passed"] >= 30
    assert counts["deselected"] == len(DESELECTED)
    assert not counts.keys() & {"skipped", "failed", "errors", "xfailed"}
