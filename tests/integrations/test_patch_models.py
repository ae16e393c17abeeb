"""Patched transformers models compute what unpatched ones do: logits, losses, every gradient, generated tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pyllm
from pyllm.integrations.transformers import PatchReport
from tests.integrations import models
from tests.ops.numerics import FORWARD, GRADIENT, assert_as_accurate

EVERYTHING = dict.fromkeys(("attention", "rms_norm", "rope", "swiglu", "experts", "loss", "linear"), True)


def seq2seq_batch(seed: int) -> dict[str, Tensor]:
    return {"input_ids": models.tokens(2, 9, seed), "labels": models.tokens(2, 7, seed + 100)}


def causal_batch(seed: int) -> dict[str, Tensor]:
    ids = models.tokens(2, 12, seed)
    labels = ids.clone()
    labels[0, :3] = -100
    return {"input_ids": ids, "labels": labels}


def right_padded(seed: int) -> dict[str, Tensor]:
    return _padded(seed, slice(8, None))


def left_padded(seed: int) -> dict[str, Tensor]:
    return _padded(seed, slice(0, 4))


def _padded(seed: int, hidden: slice) -> dict[str, Tensor]:
    batch = causal_batch(seed)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][1, hidden] = 0
    batch["input_ids"][1, hidden] = 0
    batch["labels"][1, hidden] = -100
    return batch


def packed(seed: int) -> dict[str, Tensor]:
    """One row of three documents, told apart by positions that start again."""
    ids = models.tokens(1, 20, seed)
    positions = torch.cat([torch.arange(n) for n in (9, 1, 10)])[None]
    labels = ids.masked_fill(positions == 0, -100)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": None}


def custom_mask(seed: int) -> dict[str, Tensor]:
    """A mask of four dimensions of the user's own, to be added: causal, every third key hidden from later queries."""
    batch = causal_batch(seed)
    length = batch["input_ids"].shape[1]
    visible = torch.ones(length, length, dtype=torch.bool).tril()
    visible[:, ::3] &= torch.eye(length, dtype=torch.bool)[:, ::3]
    hidden = torch.zeros(length, length).masked_fill(~visible, torch.finfo(torch.float32).min)
    batch["attention_mask"] = hidden[None, None].expand(2, 1, -1, -1)
    return batch


def run(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """Logits of real tokens, loss, and the gradients of all parameters."""
    inputs = dict(batch)
    if not model.config.is_encoder_decoder:
        del inputs["labels"]
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    mask = batch.get("attention_mask")
    if mask is not None and mask.dim() == 2:
        logits = logits[mask.bool()]
    model.train().zero_grad()
    loss = model(**batch).loss
    loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [logits, loss.detach(), *grads]


def check(make: Callable[[], Any], batch: Callable[[int], dict[str, Tensor]], **which: bool) -> PatchReport:
    """The error rule for a whole model; four batches are four draws of every result."""
    ours, plain, exact = models.twins(make)
    report = pyllm.patch(ours, **which)
    sides = [
        [torch.stack(draws) for draws in zip(*(run(model, batch(seed)) for seed in range(4)), strict=True)]
        for model in (ours, plain, exact)
    ]
    for place, (mine, theirs, right) in enumerate(zip(*sides, strict=True)):
        assert_as_accurate(mine, theirs, right, FORWARD if place < 2 else GRADIENT)
    return report


@pytest.mark.parametrize("family", models.DECODERS)
def test_decoders(family: str) -> None:
    report = check(lambda: models.decoder(family), causal_batch, **EVERYTHING)
    assert {"attention", "loss", "linear", "swiglu"} - set(report.replaced) <= (
        {"swiglu"} if family in ("mixtral", "qwen3_moe") else set()
    )
    assert ("rms_norm" in report.replaced and "rope" in report.replaced) == (family != "gpt2")
    assert ("experts" in report.replaced) == (family in ("mixtral", "qwen2_moe", "qwen3_moe"))


@pytest.mark.parametrize("batch", [right_padded, left_padded, packed, custom_mask])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
def test_masks(family: str, batch: Callable[[int], dict[str, Tensor]]) -> None:
    if family == "gemma2" and batch is left_padded:
        pytest.skip("transformers' own attention of Gemma 2 gives NaN there: see the next test")
    check(lambda: models.decoder(family), batch)


def test_left_padding_of_gemma2() -> None:
    ours, plain, exact = (m.eval() for m in models.twins(lambda: models.decoder("gemma2")))
    pyllm.patch(ours)
    batch = left_padded(0)
    alone = batch["input_ids"][1:, 4:]
    with torch.no_grad():
        mine = ours(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[1:, 4:]
        assert_as_accurate(mine, plain(alone).logits, exact(alone).logits)


@pytest.mark.parametrize("options", [{"hidden_act": "gelu"}, {"hidden_act": "relu"}])
def test_experts_alone(options: dict[str, Any]) -> None:
    switches = dict.fromkeys(EVERYTHING, False) | {"experts": True}
    report = check(lambda: models.decoder("mixtral", **options), causal_batch, **switches)
    assert report.replaced == {"experts": ["MixtralExperts"] * 2}


@pytest.mark.parametrize("batch", [causal_batch, right_padded])
def test_bert(batch: Callable[[int], dict[str, Tensor]]) -> None:
    report = check(models.bert, batch)
    assert {"attention", "loss"} <= set(report.replaced)


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_t5(kind: str) -> None:
    report = check(lambda: models.t5(feed_forward_proj=kind), seq2seq_batch)
    assert {"attention", "loss", "rms_norm"} <= set(report.replaced)
    assert ("swiglu" in report.replaced) == (kind == "gated-gelu")


@pytest.mark.parametrize("switch", ["attention", "rms_norm", "rope", "swiglu", "loss", "linear"])
def test_each_part_alone(switch: str) -> None:
    report = check(
        lambda: models.decoder("llama"), causal_batch, **{**dict.fromkeys(EVERYTHING, False), switch: True}
    )
    assert set(report.replaced) == {switch}
