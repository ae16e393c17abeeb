from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

import pyllm

GLIBC = platform.libc_ver()[0] == "glibc"


def run(code: str) -> dict[str, dict[str, str]]:
    """Last line of a fresh process that runs `code`, as JSON."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_changes_nothing() -> None:
    done = run("import os, json, pyllm.allocator, pyllm; print(json.dumps(dict(os.environ)))")
    assert "THP_MEM_ALLOC_ENABLE" not in done


def test_second_call_reports_the_first() -> None:
    code = "import json, pyllm; a = pyllm.tune_allocator(); print(json.dumps({'same': pyllm.tune_allocator() is a}))"
    assert run(code) == {"same": True}


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_freed_tensors_are_found_again_without_page_faults() -> None:
    code = """
import json, resource, pyllm
done = pyllm.tune_allocator()
import torch
torch.set_num_threads(1)
torch.empty(16 << 20).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.empty(16 << 20).fill_(1.0)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps({"applied": done.applied, "skipped": done.skipped, "faults": faults}))
"""
    done = run(code)
    assert done["skipped"] == {}
    assert set(done["applied"]) == {"M_MMAP_MAX", "M_TRIM_THRESHOLD", "M_TOP_PAD", "THP_MEM_ALLOC_ENABLE"}
    assert done["faults"] < 16384  # one tensor has 16,384 small pages; ten of them cost 163,840 untuned


def test_says_what_it_left_alone() -> None:
    done = run(
        "import json, sys, pyllm; sys.modules['torch'] = sys; "
        "print(json.dumps({'skipped': pyllm.tune_allocator().skipped}))"
    )
    assert "THP_MEM_ALLOC_ENABLE" in done["skipped"]


def test_elsewhere_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyllm.allocator._done", None)
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    done = pyllm.tune_allocator()
    assert not any(name.startswith("M_") for name in done.applied)
    assert "glibc" in done.skipped["M_MMAP_MAX"]
