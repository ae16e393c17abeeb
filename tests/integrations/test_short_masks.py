"""Masks of transformers get their short form exactly where it says the same."""

from __future__ import annotations

from typing import Any

import torch

import pyllm
from pyllm.integrations.transformers.masks import ShortMask, make_mask, short_mask
from tests.integrations import models

masking = models.transformers.masking_utils


def short(**arguments: Any) -> ShortMask | None:
    return short_mask(make_mask(batch_size=2, **arguments))


def test_padding() -> None:
    seen = torch.ones(2, 6, dtype=torch.bool)
    seen[1, 4:] = False
    got = short(q_length=6, kv_length=6, attention_mask=seen)
    assert got is not None
    assert got.keys is not None
    assert got.keys.shape == (2, 1, 1, 6)
    assert (got.is_causal, got.window, got.cu_seqlens) == (True, None, None)


def test_window_and_a_cache() -> None:
    function = masking.sliding_window_causal_mask_function(3)
    seen = torch.ones(2, 9, dtype=torch.bool)
    seen[0, :2] = False
    arguments = {"q_length": 5, "kv_length": 7, "q_offset": 4, "kv_offset": 2, "attention_mask": seen}
    got = short(mask_function=function, local_size=3, **arguments)
    assert got is not None
    assert got.window == 3
    assert short(mask_function=function, local_size=4, **arguments) is None


def test_documents() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 3]])
    function = masking.packed_sequence_compatibility_function(
        masking.causal_mask_function, positions, (positions == 0).cumsum(-1)
    )
    got = short(q_length=6, kv_length=6, mask_function=function, allow_is_causal_skip=False)
    assert got is not None
    assert got.cu_seqlens is not None
    assert got.cu_seqlens.tolist() == [0, 3, 5, 6, 8, 12]


def test_an_encoder_s_padding() -> None:
    seen = torch.ones(2, 6, dtype=torch.bool)
    seen[1, 4:] = False
    function = masking.bidirectional_mask_function
    got = short(
        q_length=6, kv_length=6, attention_mask=seen, mask_function=function, allow_is_causal_skip=False
    )
    assert got is not None
    assert not got.is_causal
    assert torch.equal(got.keys, seen[:, None, None])


def test_anything_else_has_none() -> None:
    blocks = masking.blockwise_overlay(torch.tensor([[-1, 0, 0, 0, -1, -1]] * 2))
    images = masking.or_masks(masking.causal_mask_function, blocks)
    assert short(q_length=6, kv_length=6, mask_function=images, allow_is_causal_skip=False) is None
    chunked = masking.chunked_causal_mask_function(4, torch.zeros(2, dtype=torch.int64))
    assert (
        short(
            q_length=6,
            kv_length=6,
            mask_function=chunked,
            local_size=4,
            attention_mask=torch.ones(2, 6, dtype=torch.bool),
        )
        is None
    )
    static = torch.tensor(2)
    assert (
        short(q_length=3, kv_length=8, q_offset=static, attention_mask=torch.ones(2, 8, dtype=torch.bool))
        is None
    )


def test_flattened_rows_with_borders_given() -> None:
    """Borders alone keep documents apart, also where no position says so."""
    model = models.decoder("llama").eval()
    pyllm.patch(model)
    first, second = models.tokens(1, 5, 1), models.tokens(1, 8, 2)
    borders = torch.tensor([0, 5, 13], dtype=torch.int32)
    with torch.no_grad():
        both = model(
            torch.cat((first, second), 1),
            position_ids=torch.cat((torch.arange(5), torch.arange(8)))[None],
            cu_seq_lens_q=borders,
            cu_seq_lens_k=borders,
            max_length_q=8,
            max_length_k=8,
        ).logits
        torch.testing.assert_close(both[:, :5], model(first).logits)
        torch.testing.assert_close(both[:, 5:], model(second).logits)


def test_transformers_collator_for_flattened_rows() -> None:
    model = models.decoder("llama").train()
    collate = models.transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    texts = [models.tokens(1, n, n)[0].tolist() for n in (4, 7, 3)]
    rows = [model(torch.tensor([t]), labels=torch.tensor([t])).loss * (len(t) - 1) for t in texts]
    pyllm.patch(model)
    loss = model(**collate([{"input_ids": t} for t in texts])).loss
    torch.testing.assert_close(loss, sum(rows) / 11)
