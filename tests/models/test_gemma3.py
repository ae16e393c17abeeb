"""Gemma-3-270M as Q4_K_M, a file of five block types, against transformers on the same weights dequantized by gguf."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import pyllm
from tests.assets import asset


def test_oracle(gemma3_path: Path) -> None:
    oracle = json.loads(asset("reference/gemma3_pride_192.json").read_text())
    model = pyllm.load(gemma3_path)
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
