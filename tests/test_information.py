from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import pyllm
from pyllm.ops import _library
from tests.ops.conftest import levels


def test_names_what_runs() -> None:
    facts = pyllm.info()
    assert facts.torch == torch.__version__
    assert facts.threads == torch.get_num_threads()
    assert facts.kernels == "loaded"
    assert facts.machine_isa == torch.ops.pyllm.machine_isa()
    assert facts.extensions == tuple(filter(None, torch.ops.pyllm.extensions().split(",")))
    assert ("amx" in facts.extensions) <= (facts.machine_isa == "amx")
    assert set(pyllm.ops.__all__) >= {"rms_norm"}
    assert "rms_norm" in facts.ops
    for part in (facts.torch, facts.machine_isa, "rms_norm", *facts.extensions):
        assert part in str(facts)


@pytest.mark.parametrize("level", levels())
def test_ops_follow_a_lowered_level(level: str) -> None:
    with _library.forced_isa(level):
        facts = pyllm.info()
    assert facts.active_isa == level
    assert facts.ops["rms_norm"] == {"amx": "avx512"}.get(level, level)


def test_a_wrong_level_is_said_not_raised() -> None:
    code = "import pyllm; facts = pyllm.info(); print(facts.active_isa, facts.ops)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYLLM_ISA": "sse9"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "sse9" in run.stdout
    assert run.stdout.strip().endswith("{}")


def test_works_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import pyllm; print(pyllm.info())"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "not installed" in run.stdout
