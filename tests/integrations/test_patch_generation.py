"""`generate` of patched models gives the tokens of unpatched ones, whatever the cache and the search."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import pyllm
from tests.integrations import models


def both(model: Any, ids: torch.Tensor, **options: Any) -> tuple[list[Any], list[Any]]:
    """Tokens by the model as it is and patched."""
    model.eval()
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, **options}
    plain = model.generate(ids, **options)
    pyllm.patch(model, linear=True)
    return plain.tolist(), model.generate(ids, **options).tolist()


@pytest.mark.parametrize("family", models.DECODERS)
def test_greedy(family: str) -> None:
    # Untied: the head of tied random weights gives back the token that was read.
    plain, ours = both(models.decoder(family, tie_word_embeddings=False), models.tokens(2, 7))
    assert ours == plain
    assert len({*plain[0][7:]}) > 2  # a text that repeats one token would hide much


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3", "gpt2"])
def test_left_padded_batch(family: str) -> None:
    ids = models.tokens(2, 7)
    ids[1, :3] = 0
    mask = (ids != 0).long()
    model = models.decoder(family)
    if (
        family == "gemma2"
    ):  # its own attention gives NaN for padding on the left: the row alone is the reference
        alone = copy.deepcopy(model).eval().generate(ids[1:, 3:], max_new_tokens=12, min_new_tokens=12)
        pyllm.patch(model)
        ours = model.eval().generate(ids, attention_mask=mask, max_new_tokens=12, min_new_tokens=12)
        assert ours[1, 7:].tolist() == alone[0, 4:].tolist()
        return
    plain, ours = both(model, ids, attention_mask=mask)
    assert ours == plain


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"cache_implementation": "dynamic"},
        {"use_cache": False},
        {"num_beams": 2, "num_return_sequences": 2, "length_penalty": 0.5},
        {"prefill_chunk_size": 3},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=lambda options: "-".join(options),
)
def test_searches_and_caches(options: dict[str, Any]) -> None:
    rows = 1 if "prompt_lookup_num_tokens" in options else 2
    plain, ours = both(models.decoder("llama"), models.tokens(rows, 7), **options)
    assert ours == plain


def test_t5() -> None:
    plain, ours = both(models.t5(), models.tokens(2, 9), num_beams=2)
    assert ours == plain
