"""The op tests at level amx on any machine with AVX-512: `python -m tests.tiles [PYTEST ARGUMENTS]`, `make test-tiles`.

Builds the library with the tile registers in ordinary memory (csrc/core/amx_tiles.h) into a copy of the package under
build/tiles, and runs tests/ops there at that level alone: the kernels on tiles must give the bits that they give on a
processor that has them. The installed library stays as it is.
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

FOLDER = REPOSITORY / "build" / "tiles"


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
        raise RuntimeError("test-tiles needs an installed torch")
    run(
        *(str(tool("cmake")), "-S", str(REPOSITORY), "-B", str(FOLDER / "cmake"), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DPYLLM_SOFTWARE_TILES=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DTORCH_DIR={Path(torch.origin).parent}",
        f"-DPYLLM_OUTPUT_DIR={FOLDER / 'pyllm'}",
    )
    run(str(tool("cmake")), "--build", str(FOLDER / "cmake"), "--parallel", "2")


def main(arguments: list[str]) -> int:
    """Builds, and returns pytest's exit code; 1 where the level does not exist even so."""
    build()
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "PYLLM_TEST_LEVELS": "amx"}
    code = (
        "import pyllm, torch, pyllm.ops; assert torch.ops.pyllm.machine_isa() == 'amx', 'no AVX-512 here';"
        f"assert pyllm.__file__.startswith({str(FOLDER)!r}), pyllm.__file__"
    )
    for command in (["-c", code], ["-m", "pytest", "-p", "no:cacheprovider", "tests/ops", *arguments]):
        done = subprocess.run([sys.executable, *command], cwd=FOLDER, env=environment)
        if done.returncode != 0:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
