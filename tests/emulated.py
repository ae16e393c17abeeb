"""The op tests at the levels that this machine lacks: `python -m tests.emulated [PYTEST ARGUMENTS]`.

Builds the library with the AMX tile registers in ordinary memory (csrc/core/amx_tiles.h) and, where there is no AVX-512
either, with its vectors as two of AVX2's (tests/emulation/avx512.h), into a copy of the package under build/emulated,
and runs tests/ops there at those levels alone: the kernels must give the bits that they give on a processor that has
the instructions. The installed library stays as it is.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.assets import REPOSITORY
from tests.native.sanitize import run, tool

FOLDER = REPOSITORY / "build" / "emulated"


def build() -> None:
    """Copies the Python sources and builds the library beside them."""
    import pybind11

    for name in ("pyllm", "bench", "tests"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(REPOSITORY / name, FOLDER / name, ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", FOLDER)
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        raise RuntimeError("the emulated build needs an installed torch")
    run(
        *(str(tool("cmake")), "-S", str(REPOSITORY), "-B", str(FOLDER / "cmake"), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1",  # emulated vectors take -O3 four times as long, and nobody times them
        "-DPYLLM_SOFTWARE_TILES=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DTORCH_DIR={Path(torch.origin).parent}",
        f"-DPYLLM_OUTPUT_DIR={FOLDER / 'pyllm'}",
    )
    run(str(tool("cmake")), "--build", str(FOLDER / "cmake"), "--parallel", "2")


def missing_levels() -> str:
    """The levels to emulate, as PYLLM_TEST_LEVELS has them: those above the installed library's on this machine."""
    import torch

    import pyllm.ops  # noqa: F401 - registers the operators

    machine = torch.ops.pyllm.machine_isa()
    if machine not in ("avx2", "avx512", "amx"):
        raise RuntimeError(f"the emulated build needs an x86-64 processor with AVX2, this one has {machine}")
    return "avx512,amx" if machine == "avx2" else "amx"


def main(arguments: list[str]) -> int:
    """Builds, and returns pytest's exit code; 1 where the levels do not exist even so."""
    levels = missing_levels()
    build()
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "PYLLM_TEST_LEVELS": levels}
    code = (
        "import pyllm, torch, pyllm.ops; assert torch.ops.pyllm.machine_isa() == 'amx', 'not emulated';"
        f"assert pyllm.__file__.startswith({str(FOLDER)!r}), pyllm.__file__"
    )
    for command in (["-c", code], ["-m", "pytest", "-p", "no:cacheprovider", "tests/ops", *arguments]):
        done = subprocess.run([sys.executable, *command], cwd=FOLDER, env=environment)
        if done.returncode != 0:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
