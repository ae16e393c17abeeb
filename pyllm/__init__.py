"""pyllm: a C++/CUDA core for large language models with a thin Python package on top.

Nothing heavy is imported here: names resolve on first use, so that the tokenizer works where torch is not installed.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that defines it.
_HOMES = {
    "Engine": "pyllm.generation",
    "GenerationConfig": "pyllm.generation",
    "Model": "pyllm.model",
    "Tokenizer": "pyllm.tokenizers",
    "Trainer": "pyllm.training",
    "TrainingConfig": "pyllm.training",
    "TrainingResult": "pyllm.training",
    "info": "pyllm.information",
    "load": "pyllm.model",
    "patch": "pyllm.integrations.transformers",
    "tune_allocator": "pyllm.allocator",
    "unpatch": "pyllm.integrations.transformers",
}
_ROOMS = {
    "checkpoints",
    "data",
    "evaluation",
    "generation",
    "integrations",
    "models",
    "nn",
    "ops",
    "optim",
    "quantization",
    "tokenizers",
    "training",
}

__all__ = ["__version__", *sorted(_HOMES), *sorted(_ROOMS)]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"pyllm.{name}")
    else:
        raise AttributeError(f"module 'pyllm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
