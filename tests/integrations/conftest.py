"""Every test here leaves transformers as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pyllm


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    yield
    pyllm.unpatch()
