"""Every op test runs at every instruction-set level the machine has.

Those of ops with CUDA kernels also run on these: simulated on the CPU (tests/cuda), and on a GPU, if there is one,
where tensors are copied there and back around each call.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from pyllm.ops import _library
from tests.cuda import simulated


def levels() -> list[str]:
    """Levels to test here, lowest first; of these only what PYLLM_TEST_LEVELS names (avx2,amx), where it is set."""
    ladder = {
        "scalar": ["scalar"],
        "avx2": ["scalar", "avx2"],
        "avx512": ["scalar", "avx2", "avx512"],
        "amx": ["scalar", "avx2", "avx512", "amx"],
        "neon": ["scalar", "neon"],
    }
    found = ladder[torch.ops.pyllm.machine_isa()] if _library.LOADED else []
    chosen = os.environ.get("PYLLM_TEST_LEVELS")
    return found if chosen is None else [level for level in found if level in chosen.split(",")]


def cuda_levels() -> list[str]:
    """How CUDA kernels can run here; the CPU's levels have their own name in PYLLM_TEST_LEVELS."""
    if not _library.LOADED or "PYLLM_TEST_LEVELS" in os.environ:
        return []
    simulated_levels = ["cuda-simulated"] if simulated.can_build() else []
    return [*simulated_levels, *(["cuda"] if _library.why_no_cuda() is None else [])]


# Ops all of whose dtypes and shapes in their tests have CUDA kernels; attention's tests are in tests/cuda.
CUDA_MODULES = (
    "test_adamw",
    "test_gradient_norm",
    "test_layer_norm",
    "test_rms_norm",
    "test_rope",
    "test_swiglu",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives `isa` the levels of the test's op."""
    if "isa" in metafunc.fixturenames:
        package, _, name = metafunc.module.__name__.rpartition(".")
        on_cuda = package == __package__ and name in CUDA_MODULES
        metafunc.parametrize("isa", [*levels(), *(cuda_levels() if on_cuda else [])], indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Forces one level for the duration of a test."""
    on_cuda = request.param in ("cuda-simulated", "cuda")
    with simulated.in_place_of_cpu_kernels(request.param) if on_cuda else _library.forced_isa(request.param):
        yield request.param
