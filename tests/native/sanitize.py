"""Builds the C++ tests of the kernels under a sanitizer and runs them, on fixed and on random cases.

`python -m tests.native.sanitize [SECONDS] [SEED]` is the long form (`make sanitize`): all three sanitizers, random
shapes for SECONDS each, from SEED on. The amx level runs on tiles in memory, whose every access is seen.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.assets import REPOSITORY

SANITIZERS = ("address", "undefined", "thread")
OPS = (
    *("adamw", "attention", "decoder_step", "dtypes", "formats", "gradient_norm", "grouped_linear"),
    *("layer_norm", "linear", "linear_cross_entropy", "parallel", "quantized_linear", "rms_norm", "rope"),
    *("swiglu", "team"),
)


def tool(name: str) -> str | None:
    """Path of a build tool: beside this Python, where its package puts it, or on PATH."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


def build(sanitizer: str, folder: Path, *options: str, target: str = "native_tests") -> Path:
    """The program `target`, built in `folder`; `options` go to CMake."""
    configure = [
        *(str(tool("cmake")), "-S", str(REPOSITORY), "-B", str(folder), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DPYLLM_NATIVE_TESTS=ON",
        "-DPYLLM_SOFTWARE_TILES=ON",
        f"-DPYLLM_SANITIZE={sanitizer}",
        *options,
    ]
    run(*configure)
    run(str(tool("cmake")), "--build", str(folder), "--parallel", "2", "--target", target)
    return folder / "tests" / "native" / target


def run(*command: str) -> str:
    """What `command` prints; raises RuntimeError with its last words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def main(seconds: str = "600", seed: str = "1") -> None:
    """The long form."""
    for sanitizer in SANITIZERS:
        program = str(build(sanitizer, REPOSITORY / "build" / "sanitize" / sanitizer))
        print(f"{sanitizer}: fixed cases", run(program).split()[::2], flush=True)
        print(f"{sanitizer}: {run(program, seconds, seed).strip()}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
