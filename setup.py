"""Drives CMake and ninja; everything else about the package stands in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
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


def cuda_options() -> list[str]:
    """CMake's from PYLLM_CUDA (0: build without CUDA) and PYLLM_CUDA_ARCHITECTURES ("80;90;100;120")."""
    options = [f"-DPYLLM_CUDA={'OFF' if os.environ.get('PYLLM_CUDA') == '0' else 'ON'}"]
    architectures = os.environ.get("PYLLM_CUDA_ARCHITECTURES")
    return [*options, f"-DPYLLM_CUDA_ARCHITECTURES={architectures}"] if architectures else options


class CMakeBuild(build_ext):
    """One CMake build makes all libraries, straight into the package folder they belong to.

    The build folder is kept, so that a changed file costs seconds.
    """

    def _output(self) -> Path:
        """The source's own package folder for an editable install, otherwise the one the wheel is made of."""
        return (ROOT if self.editable_mode or self.inplace else Path(self.build_lib)).resolve() / "pyllm"

    def run(self) -> None:
        """Configures and builds; needs an installed torch."""
        import pybind11

        torch = find_torch()
        if torch is None:
            raise RuntimeError(
                "building pyllm needs an installed torch >= 2.10 (its headers and libtorch_cpu); install it first, or "
                "name its folder in PYLLM_TORCH"
            )
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
                f"-DPYLLM_OUTPUT_DIR={self._output()}",
                *cuda_options(),
            ],
            check=True,
        )
        jobs = os.environ.get("MAX_JOBS")
        subprocess.run([tool("cmake"), "--build", str(build), *(["-j", jobs] if jobs else [])], check=True)

    def get_outputs(self) -> list[str]:
        """The libraries that were built; setuptools lists them in the wheel."""
        names = [self.get_ext_filename("_tokenizers"), "libpyllm_cpu.so", "libpyllm_cuda.so"]
        return [str(self._output() / name) for name in names if (self._output() / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is copied after the build."""
        return {}


BENCH_FOLDERS = {
    "pyllm.bench": "bench",
    "pyllm.bench.end_to_end": "bench/end_to_end",
    "pyllm.bench.tokenizer": "bench/tokenizer",
}

setup(
    packages=[
        *find_packages(include=["pyllm", "pyllm.*"]),
        "pyllm.bench",
        "pyllm.bench.end_to_end",
        "pyllm.bench.tokenizer",
    ],
    package_dir={
        "pyllm.bench": "bench",
        "pyllm.bench.end_to_end": "bench/end_to_end",
        "pyllm.bench.tokenizer": "bench/tokenizer",
    },
    ext_modules=[Extension("pyllm._tokenizers", [])],
    cmdclass={"build_ext": CMakeBuild},
)
