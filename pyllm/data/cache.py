"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`PYLLM_CACHE`, or `pyllm` in the user's cache folder; what lies in it can be deleted at any time."""
    configured = os.environ.get("PYLLM_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyllm"
