"""Operator schemas are a contract: other people's compiled graphs and checkpoints name them.

A change that is meant: `python -m tests.ops.test_schemas` rewrites the list; say so in the changelog.
"""

from __future__ import annotations

from pathlib import Path

import torch

import pyllm.ops  # noqa: F401 - loads the library

FROZEN = Path(__file__).with_name("schemas.txt")


def schemas() -> list[str]:
    """Schemas of all operators in the namespace, sorted."""
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("pyllm::")}
    return sorted(str(schema) for schema in torch._C._jit_get_all_schemas() if schema.name in names)


def test_schemas_are_frozen() -> None:
    assert schemas() == FROZEN.read_text().splitlines()


if __name__ == "__main__":
    FROZEN.write_text("\n".join(schemas()) + "\n")
