"""The CUDA kernels on a CPU: builds tests/cuda/simulator and puts its operators in the place of the CPU's."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.assets import REPOSITORY
from tests.native.sanitize import run, tool

FOLDER = REPOSITORY / "build" / "cuda_simulator"


def can_build() -> bool:
    """True if the tools that the simulator is built with are here."""
    return all(tool(name) for name in ("cmake", "ninja", "c++"))


def build(folder: Path, target: str, *options: str) -> Path:
    """Builds `target` of tests/cuda/simulator in `folder`; `options` go to CMake."""
    run(
        *(str(tool("cmake")), "-S", str(REPOSITORY), "-B", str(folder), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DPYLLM_CUDA_SIMULATOR=ON",
        f"-DPYLLM_OUTPUT_DIR={folder}",
        *options,
    )
    run(str(tool("cmake")), "--build", str(folder), "--parallel", "2", "--target", target)
    return folder


@functools.cache
def load() -> None:
    """Builds the library, if its sources changed, and loads it: torch.ops.pyllm_simulated.<op>."""
    torch_module = importlib.util.find_spec("torch")
    assert torch_module is not None
    assert torch_module.origin is not None
    folder = build(FOLDER, "pyllm_simulated", f"-DTORCH_DIR={Path(torch_module.origin).parent}")
    torch.ops.load_library(str(folder / "libpyllm_simulated.so"))


def operators() -> list[str]:
    """Names of the operators that have CUDA kernels."""
    prefix = "pyllm_simulated::"
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def on_cpu(name: str) -> Callable[..., Any]:
    """torch.ops.pyllm_simulated.<name>, for doubles torch.ops.pyllm's own: those have no CUDA kernels."""
    return getattr(torch.ops.pyllm_simulated, name).default


def on_gpu(name: str) -> Callable[..., Any]:
    """The real CUDA kernel, fed with copies of tensors of the CPU."""
    op = getattr(torch.ops.pyllm, name).default

    def call(*arguments: Any) -> Any:
        results = op(*(x.cuda() if isinstance(x, torch.Tensor) else x for x in arguments))
        return results.cpu() if isinstance(results, torch.Tensor) else tuple(x.cpu() for x in results)

    return call


@contextlib.contextmanager
def in_place_of_cpu_kernels(level: str) -> Iterator[None]:
    """Inside the block operators on CPU tensors run CUDA kernels: "cuda-simulated", or "cuda" on a GPU."""
    load()
    library = torch.library.Library("pyllm", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the point is to override
            for name in operators():
                kernel = on_gpu(name) if level == "cuda" else on_cpu(name)
                library.impl(name, kernel, "CPU", allow_override=True)
        yield
    finally:
        library._destroy()


@contextlib.contextmanager
def scheduled(seed: int) -> Iterator[None]:
    """Inside the block the simulator draws the order of blocks and threads."""
    os.environ["PYLLM_SIMULATOR_SEED"] = str(seed)
    try:
        yield
    finally:
        del os.environ["PYLLM_SIMULATOR_SEED"]
