"""Builds the C++ tests of the kernels with a sanitizer and runs them: overruns, undefined behaviour, races."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.assets import REPOSITORY

needs_tools = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("cmake", "ninja", "c++")),
    reason="cmake, ninja or c++ not installed",
)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@needs_tools
@pytest.mark.parametrize(
    "sanitizer",
    [
        "address",
        pytest.param("undefined", marks=pytest.mark.slow),
        pytest.param("thread", marks=pytest.mark.slow),
    ],
)
def test_native(sanitizer: str, tmp_path: Path) -> None:
    options = ["-G", "Ninja", "-DPYLLM_NATIVE_TESTS=ON", f"-DPYLLM_SANITIZE={sanitizer}"]
    run("cmake", "-S", str(REPOSITORY), "-B", str(tmp_path), *options)
    run("cmake", "--build", str(tmp_path), "--parallel", "2", "--target", "native_tests")
    output = run(str(tmp_path / "tests" / "native" / "native_tests"))
    assert output.split() == [
        word for op in ("attention", "dtypes", "linear", "rms_norm", "rope", "swiglu") for word in (op, "ok")
    ]
