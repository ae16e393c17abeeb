"""Measuring at a lower instruction-set level: rivals must be held to it too, and they read their caps at start-up."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_ISA = "PYLLM_ISA"
# What pyllm, PyTorch's own kernels, oneDNN and MKL are each told. A cap above what the machine has changes nothing.
ENVIRONMENTS = {
    "scalar": {
        _ISA: "scalar",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "avx2": {
        _ISA: "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {
        _ISA: "avx512",
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}


def in_force() -> dict[str, str]:
    """The caps that this process was started with."""
    names = dict.fromkeys(name for caps in ENVIRONMENTS.values() for name in caps)
    return {name: os.environ[name] for name in names if name in os.environ}


def restart_at(isa: str, arguments: Sequence[str]) -> None:
    """Replaces this process by `pyllm ARGUMENTS...` with everybody capped at `isa`; returns if it is already so.

    Raises:
        ValueError: no such level.
    """
    if isa not in ENVIRONMENTS:
        raise ValueError(f"isa: expected one of {', '.join(ENVIRONMENTS)}, got {isa!r}")
    if in_force() == ENVIRONMENTS[isa]:
        return
    kept = {name: value for name, value in os.environ.items() if name not in in_force()}
    command = [sys.executable, "-m", "pyllm", *arguments]
    os.execve(sys.executable, command, {**kept, **ENVIRONMENTS[isa]})
