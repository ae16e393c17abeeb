"""The real checkpoint's network, loaded once for all tests that need it."""

from __future__ import annotations

import pytest

import pyllm
from pyllm.models import Transformer


@pytest.fixture(scope="session")
def smollm2(smollm2_model: pyllm.Model) -> Transformer:
    """SmolLM2-135M-Instruct in float32."""
    return smollm2_model.network
