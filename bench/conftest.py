"""Turns each bench file's cases into pytest-benchmark rows: one per case and contender, grouped by case."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "call" in metafunc.fixturenames:
        cases = [case for case in metafunc.module.cases() if case.quick]
        rows = [(f"{c.name} {c.direction}", name, call) for c in cases for name, call in c.build().items()]
        metafunc.parametrize("call", [row[2] for row in rows], ids=[f"{row[0]} - {row[1]}" for row in rows])
