"""docs/benchmarks.md: everything that was measured is in it, and it is what the kept results give."""

from __future__ import annotations

import json
import subprocess
import sys

from pyllm.bench import conditions
from pyllm.bench.report import Row, as_json
from pyllm.bench.roofline import Peaks, Roofline
from pyllm.bench.tables import document
from pyllm.bench.timing import Timing

from tests.assets import REPOSITORY

ROOFLINE = Roofline(
    "avx2",
    Peaks(1, 1e10, 9e9, {"fma_fp32": 1e11}),
    Peaks(2, 2e10, 1.8e10, {"fma_fp32": 2e11, "amx_bf16": 5e12}),
)
ROWS = [
    Row("linear", "64 x 8 -> 4 bf16", "dX", {"pyllm": Timing(2e-3, 1e-3, 3e-3, 9)}, 1e-3, "amx_bf16"),
    Row(
        "linear",
        "1 x 8 -> 4 bf16",
        "forward",
        {"pyllm": Timing(4e-3, 3e-3, 5e-3, 9), "torch": Timing(1e-3, 1e-3, 1e-3, 9)},
        2e-3,
        "memory",
    ),
    Row(
        "attention",
        "causal",
        "forward+backward",
        {"pyllm": Timing(1e-3, 1e-3, 1e-3, 9), "torch": Timing(3e-3, 3e-3, 3e-3, 9)},
        1e-3,
        "fma_fp32",
        {"flex_attention": "NotImplementedError: no backward here"},
    ),
]


def page() -> str:
    saved = json.loads(json.dumps(as_json(ROWS, ROOFLINE, conditions.gather(runs=3, full=True))))
    return document({"avx2-2threads": saved})


def test_every_row_is_rendered_with_its_share() -> None:
    lines = page().splitlines()
    assert "## avx2-2threads" in lines
    expected = {
        "64 x 8 -> 4 bf16": "| dX | 2.000 [1.000, 3.000] | - | 2500.0 Gop/s | 50% amx_bf16 |",
        "1 x 8 -> 4 bf16": (
            "| forward | 4.000 [3.000, 5.000] | 1.000 [1.000, 1.000], **0.25x** | 10.0 GB/s | 50% memory |"
        ),
        "causal": (
            "| forward+backward | 1.000 [1.000, 1.000] | 3.000 [3.000, 3.000], 3.00x | not available "
            "| 200.0 Gop/s | 100% fma_fp32 |"
        ),
    }
    for case, rest in expected.items():
        assert f"| {case} {rest}" in lines


def test_losses_absences_and_conditions_are_said() -> None:
    text = page()
    assert (
        "Slower than a rival in 1 of 2 comparisons:\n\n- 0.25x torch: linear, 1 x 8 -> 4 bf16, forward\n"
        in text
    )
    assert "- flex_attention not available: NotImplementedError: no backward here" in text
    assert "| amx_bf16 | absent | 5,000 Gop/s |" in text
    assert "| vnni_int8 | absent | absent |" in text
    assert conditions.cpu_model() in text
    assert "runs: 3; all shapes" in text


def test_the_page_is_what_the_kept_results_give() -> None:
    files = sorted((REPOSITORY / "bench" / "results").glob("*.json"))
    results = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    kept = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert kept == document(results), "run `make docs/benchmarks.md`"


def test_a_level_caps_every_contender() -> None:
    code = """
import os, sys
from tests import conftest  # where pyllm is not installed, pyllm.bench is the folder bench/
from pyllm.bench import levels
executed = []
os.execve = lambda path, command, environment: executed.append((command, environment))
levels.restart_at("avx2", ["bench", "rope"])
[(command, environment)] = executed
assert command == [sys.executable, "-m", "pyllm", "bench", "rope"], command
assert environment["OTHER"] == "kept"
os.environ.update(environment)
levels.restart_at("avx2", ["bench", "rope"])
print(len(executed), sorted(levels.in_force().items()))
"""
    environment = {"PYLLM_ISA": "scalar", "OTHER": "kept", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    caps = {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "PYLLM_ISA": "avx2",
    }
    assert done.stdout.strip() == f"1 {sorted(caps.items())}"
