"""Results of the end-to-end benchmarks as JSON."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Any


def save(file: Path, found: Any, settings: dict[str, Any]) -> None:
    """Writes results with the conditions of this process and the settings they were made with."""
    from pyllm.checkpoints.atomic import atomic_path

    from .. import conditions  # noqa: TID252  # the package has two names

    document = {"conditions": conditions.gather(runs=1, full=True), "settings": settings, "results": found}
    with atomic_path(file) as unfinished:
        unfinished.write_text(dumps(document, indent=1) + "\n")
