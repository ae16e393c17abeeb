"""Build backend: setuptools, plus torch's headers from wherever they already are.

Named in build-system.requires, torch would be downloaded anew into every isolated build (several GB of CUDA libraries),
and its headers would differ from the torch in use. So the backend looks for the environment's torch, which it finds
even under pip's isolation, and asks pip for one only where there is none.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import build_meta as _setuptools
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "find_torch",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def find_torch() -> Path | None:
    """Folder of an installed torch that has the stable-ABI headers: PYLLM_TORCH, the search path, the environment."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [Path(entry) / "torch" for entry in sys.path if entry]
    candidates += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if os.environ.get(variable):
            candidates.append(Path(os.environ[variable]) / "lib" / python / "site-packages" / "torch")
    if os.environ.get("PYLLM_TORCH"):
        candidates.insert(0, Path(os.environ["PYLLM_TORCH"]))
    for candidate in candidates:
        if (candidate / "include" / "torch" / "csrc" / "stable" / "library.h").exists():
            return candidate.resolve()
    return None


def _with_torch(requirements: list[str]) -> list[str]:
    return requirements if find_torch() else [*requirements, "torch>=2.10"]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return _with_torch(_setuptools.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return _with_torch(_setuptools.get_requires_for_build_editable(config_settings))
