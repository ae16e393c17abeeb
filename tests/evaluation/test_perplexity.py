"""Perplexity against the sliding-window recipe of transformers' documentation, with transformers' own network."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import pyllm
from pyllm.evaluation import perplexity
from tests.assets import asset


def recipe(model, ids: torch.Tensor, context: int, stride: int) -> tuple[float, int]:
    """Labels of tokens that an earlier window has counted are -100; the mean is weighted by what remains."""
    total, count, previous_end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        window = ids[None, begin:end]
        labels = window.clone()
        labels[:, : previous_end - begin] = -100
        counted = int((labels[:, 1:] != -100).sum())
        if counted:
            with torch.no_grad():
                total += float(model(window, labels=labels).loss) * counted
        count += counted
        previous_end = end
        if end == len(ids):
            break
    return math.exp(total / count), count


@pytest.mark.parametrize(
    ("tokens", "context", "stride"),
    [
        (300, 128, 64),
        (300, 128, 128),
        (301, 50, 49),
        (90, 128, 64),
        (257, 128, 127),
        (60, 2, 1),
        (61, 2, 2),
        (2, 9, 3),
    ],
)
def test_equal_to_the_recipe(
    tiny_model: pyllm.Model, tiny_folder: Path, tokens: int, context: int, stride: int
):
    theirs = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = torch.randint(300, (tokens,), generator=torch.Generator().manual_seed(tokens))
    wanted, count = recipe(theirs, ids, context, stride)
    result = perplexity(tiny_model.network, ids.tolist(), context=context, stride=stride)
    assert result.perplexity == pytest.approx(wanted, rel=1e-5)
    assert (result.num_tokens, result.num_predicted) == (tokens, count)
    assert result.mean_nll == pytest.approx(math.log(wanted), abs=1e-5)


def test_defaults_fit_the_model(tiny_model: pyllm.Model):
    seen = []
    result = perplexity(
        tiny_model.network, [5, 6] * 100, on_progress=lambda phase, done, total: seen.append((done, total))
    )
    assert (result.context, result.stride, result.num_predicted) == (128, 64, 199)
    assert seen == [(128, 200), (192, 200), (200, 200)]


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([5], {}, "token_ids must hold at least two"),
        ([5] * 9, {"context": 129}, r"context must lie in \[2, 128\]"),
        ([5] * 9, {"context": 1}, "context must lie"),
        ([5] * 9, {"context": 8, "stride": 9}, r"stride must lie in \[1, 8\]"),
        ([5] * 9, {"stride": 0}, "stride must lie"),
    ],
)
def test_bad_input(tiny_model: pyllm.Model, ids: list[int], options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        perplexity(tiny_model.network, ids, **options)


def test_a_token_outside_the_vocabulary(tiny_model: pyllm.Model):
    with pytest.raises(IndexError, match="300"):
        perplexity(tiny_model.network, [5, 300, 5])


def test_smollm2_on_wikitext(smollm2_model: pyllm.Model):
    oracle = json.loads(asset("reference/smollm2_wikitext2_valid_512.json").read_text())
    text = asset("wikitext2/valid.txt").read_text(encoding="utf-8")[:4000]
    assert smollm2_model.tokenizer is not None
    ids = smollm2_model.tokenizer.encode(text, disallowed_special=())[:512]
    assert ids == oracle["ids"]
    result = perplexity(smollm2_model.network, ids, context=512)
    assert result.perplexity == pytest.approx(oracle["ppl"], abs=1e-3)
    assert result.num_predicted == 511
