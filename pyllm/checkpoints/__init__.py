"""Model files in and out: GGUF, safetensors, Hugging Face folders. The only place that parses model files.

Names resolve on first use, so that `pyllm.checkpoints.gguf` (which needs numpy only) works without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name -> the module that defines it.
_HOMES = {
    "Checkpoint": "load",
    "GGUFError": "gguf",
    "GGUFFile": "gguf",
    "load_checkpoint": "load",
    "read_gguf": "gguf",
    "save_checkpoint": "save",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pyllm.checkpoints' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pyllm.checkpoints.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
