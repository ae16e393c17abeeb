"""Builds the C++ tests of the kernels with a sanitizer and runs them: overruns, undefined behaviour, races."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.assets import REPOSITORY


def tool(name: str) -> str | None:
    """Path of a build tool: beside this Python, where its package puts it, or on PATH."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


needs_tools = pytest.mark.skipif(
    not all(tool(name) for name in ("cmake", "ninja", "c++")),
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
    options = [
        "-G",
        "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DPYLLM_NATIVE_TESTS=ON",
        f"-DPYLLM_SANITIZE={sanitizer}",
    ]
    run(str(tool("cmake")), "-S", str(REPOSITORY), "-B", str(tmp_path), *options)
    run(str(tool("cmake")), "--build", str(tmp_path), "--parallel", "2", "--target", "native_tests")
    output = run(str(tmp_path / "tests" / "native" / "native_tests"))
    assert output.split() == [
        word for op in ("attention", "dtypes", "linear", "rms_norm", "rope", "swiglu") for word in (op, "ok")
    ]
