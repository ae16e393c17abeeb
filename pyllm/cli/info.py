"""`pyllm info`."""

from __future__ import annotations

from typing import Annotated

import typer


def info(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what runs where: instruction sets, kernels, versions.

    Example:
        pyllm info
        PYLLM_ISA=avx2 pyllm info --json
    """
    import dataclasses
    from json import dumps

    from pyllm.information import info as gather

    facts = gather()
    print(dumps(dataclasses.asdict(facts), indent=2) if json else facts)
