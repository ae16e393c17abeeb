"""Every op test runs at every instruction-set level the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from pyllm.ops import _library


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


@pytest.fixture(params=levels())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Forces one level for the duration of a test."""
    with _library.forced_isa(request.param):
        yield request.param
