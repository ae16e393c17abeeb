"""Drives CMake and ninja; everything else about the package stands in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))

from backend import find_torch  # noqa: E402 - the backend is not on the path before


def tool(name: str) -> str:
    """Path of cmake or ninja: beside this Python (where their packages put them, activated or not), or on PATH."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"building pyllm needs {name}: pip install {name}")
    return found


class CMakeBuild(build_ext):
    """Builds both libraries into the package folder (the source's own for an editable install)."""

    def build_extension(self, ext: Extension) -> None:
        """One CMake build makes both; the build folder is kept, so that a changed file costs seconds."""
        import pybind11

        torch = find_torch()
        if torch is None:
            raise RuntimeError(
                "building pyllm needs an installed torch >= 2.10 (its headers and libtorch_cpu); install it first, or "
                "name its folder in PYLLM_TORCH"
            )
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        subprocess.run(
            [
                *(tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
                # Given every time: an isolated build's ninja is gone when the next one finds this folder.
                f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DTORCH_DIR={torch}",
                f"-DPYLLM_OUTPUT_DIR={output}",
            ],
            check=True,
        )
        jobs = os.environ.get("MAX_JOBS")
        subprocess.run([tool("cmake"), "--build", str(build), *(["-j", jobs] if jobs else [])], check=True)

    def get_outputs(self) -> list[str]:
        """The torch library is built beside the Python extension."""
        folder = Path(self.get_ext_fullpath("pyllm._tokenizers")).parent
        return [*super().get_outputs(), str(folder / "libpyllm_cpu.so")]


setup(ext_modules=[Extension("pyllm._tokenizers", [])], cmdclass={"build_ext": CMakeBuild})
