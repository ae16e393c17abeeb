"""Under what conditions something was measured: machine, versions, threads, caps, allocator."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyllm

from . import levels
from .roofline import Roofline


def gather(*, runs: int, full: bool) -> dict[str, Any]:
    """The conditions of this process; `caps` are the environment variables that hold contenders to a level."""
    return {
        "cpu": cpu_model(),
        "pyllm": asdict(pyllm.info()),
        "caps": levels.in_force(),
        "allocator": asdict(pyllm.tune_allocator()),
        "runs": runs,
        "full": full,
    }


def cpu_model() -> str:
    """The processor's own name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def file_name(roofline: Roofline) -> str:
    """Machine kind, level and threads: avx512-2threads.json, or avx512-at-avx2-2threads.json below its own level."""
    machine, level = pyllm.info().machine_isa, roofline.isa
    kind = level if level == machine else f"{machine}-at-{level}"
    return f"{kind}-{roofline.all.threads}threads.json"
