"""Every op test runs at every instruction-set level the machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pyllm.ops import _library


def levels() -> list[str]:
    """Levels to test here, lowest first; `amx` is left out where it is granted to no op of its own."""
    ladder = {
        "scalar": ["scalar"],
        "avx2": ["scalar", "avx2"],
        "avx512": ["scalar", "avx2", "avx512"],
        "amx": ["scalar", "avx2", "avx512", "amx"],
        "neon": ["scalar", "neon"],
    }
    return ladder[torch.ops.pyllm.machine_isa()] if _library.LOADED else []


@pytest.fixture(params=levels())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Forces one level for the duration of a test."""
    with _library.forced_isa(request.param):
        yield request.param
