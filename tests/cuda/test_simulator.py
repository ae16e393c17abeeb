"""The simulator itself: kernels with planted misuse must be reported, with the line where threads stand.

The CUDA kernels themselves run on random cases beside the reference kernels.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cuda import simulated

OPS = ["adamw", "attention", "gradient_norm", "layer_norm", "paged_attention", "rms_norm", "rope", "swiglu"]
needs_tools = pytest.mark.skipif(not simulated.can_build(), reason="cmake, ninja or c++ not installed")
MISUSE = {
    "early_return": "a lane of the mask has returned",
    "barrier_after_return": "__syncthreads where other threads have returned",
    "split_barrier": "the barrier was reached at several lines",
    "divergent_shuffle": "deadlock; threads stand at: 0-15 __shfl_xor_sync misuse.cpp",
    "two_operations": "__syncwarp meets __shfl_xor_sync",
    "not_in_mask": "the calling lane is not in its mask",
    "forgotten_wait": "returned before its asynchronous copies were waited for",
    "misaligned_copy": "an address is no multiple of 16",
    "misaligned_matrix": "the address of a row is no multiple of 16",
    "too_many_threads": "too large",
    "too_much_shared": "more than 48 KB of static shared memory",
}


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def misuse() -> Path:
    return simulated.build(simulated.FOLDER / "plain", "simulator_misuse") / "simulator_misuse"


@needs_tools
@pytest.mark.parametrize(("name", "message"), MISUSE.items(), ids=MISUSE)
def test_misuse_is_reported(misuse: Path, name: str, message: str) -> None:
    done = run(misuse, name)
    assert done.returncode == 1, done.stdout
    assert message in done.stderr


@needs_tools
@pytest.mark.parametrize("name", ["poisoned_shared", "late_copy"])
def test_what_is_read_too_early_is_nan(misuse: Path, name: str) -> None:
    assert run(misuse, name).stdout.strip() == "nan"


@needs_tools
def test_random_cases_agree_with_the_reference_kernels() -> None:
    folder = simulated.build(simulated.FOLDER / "plain", "simulated_tests")
    done = run(folder / "simulated_tests", "8")
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.split() == [word for op in OPS for word in (op, "ok")]


@needs_tools
@pytest.mark.slow
def test_races_are_reported() -> None:
    folder = simulated.build(simulated.FOLDER / "thread", "simulator_misuse", "-DPYLLM_SANITIZE=thread")
    for name in ("race", "warp_race", "race_after_barrier"):
        assert "data race" in run(folder / "simulator_misuse", name).stderr, name
    assert "data race" not in run(folder / "simulator_misuse", "no_race").stderr
