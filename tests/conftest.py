"""In a source tree that is not installed, `pyllm.bench` is the folder bench/ (an installed pyllm maps it there)."""

from __future__ import annotations

import importlib
import importlib.util
import sys

if importlib.util.find_spec("pyllm.bench") is None:
    sys.modules["pyllm.bench"] = importlib.import_module("bench")
