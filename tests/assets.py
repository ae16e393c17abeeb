"""Finds test assets: real checkpoints, vocabularies and texts that are not part of the repository.

`make assets` fetches packages into build/assets; texts come from a data folder beside the checkout. `PYLLM_TEST_DATA`
(folders joined by the path separator) replaces both. A missing asset skips the test, or fails it when
`PYLLM_REQUIRE_ASSETS=1`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def roots() -> list[Path]:
    """Folders searched for assets, in order."""
    configured = os.environ.get("PYLLM_TEST_DATA")
    if configured:
        return [Path(part) for part in configured.split(os.pathsep) if part]
    return [REPOSITORY / "build" / "assets", REPOSITORY.parent / "shared" / "data"]


def asset(relative: str) -> Path:
    """Path of the asset `relative`, searched in every root; skips (or fails) the calling test if it is absent."""
    for root in roots():
        if (root / relative).exists():
            return root / relative
    message = f"asset {relative!r} not found in {[str(r) for r in roots()]}; run `make assets`"
    if os.environ.get("PYLLM_REQUIRE_ASSETS") == "1":
        pytest.fail(message)
    pytest.skip(message)
