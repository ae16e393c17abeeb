"""Logits on demand: the loss is right however a model gets there, and whoever looks sees the real tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pyllm
from pyllm.integrations.transformers.deferred_logits import DeferredLogits
from tests.integrations import models
from tests.ops.numerics import check_op


def draw(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((2, 6, 8), (33, 8), (33,))
    )
    target = torch.randint(0, 33, (2, 6), generator=generator)
    target[0, :2] = -100
    return hidden, weight, bias, target


def made_now(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(hidden, weight, bias)


def shifted(logits: Any, target: Tensor) -> Tensor:
    return F.cross_entropy(logits[..., :-1, :].contiguous().view(-1, 33), target[..., 1:].reshape(-1))


LOSSES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "flat": lambda z, t: F.cross_entropy(z.view(-1, z.size(-1)), t.view(-1)),
    "float": lambda z, t: F.cross_entropy(z.float().flatten(0, 1), t.flatten(), reduction="sum") / 7,
    "shifted": shifted,
    "softcap": lambda z, t: F.cross_entropy((torch.tanh(z / 3.0) * 3.0).view(-1, 33), t.view(-1)),
    "scaled": lambda z, t: F.cross_entropy((0.25 * z).reshape(12, -1), t.reshape(12)),
    "capped and heated": lambda z, t: F.cross_entropy((torch.tanh(z / 2) * 2 / 0.7).view(-1, 33), t.view(-1)),
    "smoothed": lambda z, t: torch.nn.CrossEntropyLoss(label_smoothing=0.1)(z.view(-1, 33), t.view(-1)),
    "each": lambda z, t: F.cross_entropy(z.view(-1, 33), t.view(-1), reduction="none").square().sum(),
    "first row": lambda z, t: F.cross_entropy(z[0], t[0].clamp(min=0)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the error rule, and without the logits."""
    monkeypatch.setattr(DeferredLogits, "tensor", lambda self: pytest.fail("logits were multiplied out"))

    def ours(h: Tensor, w: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return LOSSES[loss](DeferredLogits(h, w, b), t)

    check_op(ours, lambda h, w, b, t: LOSSES[loss](made_now(h, w, b), t), *map(draw, range(4)))


OTHERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "class weights": lambda z, t: F.cross_entropy(z.view(-1, 33), t.view(-1), weight=torch.rand(33) * 0 + 2),
    "class dimension": lambda z, t: F.cross_entropy(z.transpose(1, 2), t),
    "probabilities": lambda z, t: F.cross_entropy(z.flatten(0, 1), torch.full((12, 33), 1 / 33)),
    "log_softmax": lambda z, t: torch.log_softmax(z, -1).square().sum(),
    "method": lambda z, t: z.softmax(-1)[..., 0].sum(),
    "some columns": lambda z, t: z[..., :5].exp().sum(),
    "gather": lambda z, t: torch.gather(z, 2, t.clamp(min=0)[..., None]).sum(),
    "square of a sum": lambda z, t: (z + z).pow(2).mean(),
    "negative scale": lambda z, t: (z * -1.0).logsumexp(-1).sum(),
    "tensor scale": lambda z, t: (z / torch.tensor(2.0)).logsumexp(-1).sum(),
}


@pytest.mark.parametrize("use", OTHERS)
def test_whoever_looks_sees_the_tensor(use: str) -> None:
    hidden, weight, bias, target = draw()
    wanted = (hidden, weight, bias)
    deferred = OTHERS[use](DeferredLogits(hidden, weight, bias), target)
    real = OTHERS[use](made_now(hidden, weight, bias), target)
    assert torch.equal(deferred, real)
    for a, b in zip(torch.autograd.grad(deferred, wanted), torch.autograd.grad(real, wanted), strict=True):
        assert torch.equal(a, b)


def test_looks_like_a_tensor() -> None:
    hidden, weight, bias, _ = draw()
    logits, real = DeferredLogits(hidden, weight, bias), made_now(hidden, weight, bias)
    assert (logits.shape, logits.dtype, logits.device) == (real.shape, real.dtype, real.device)
    assert (logits.size(-1), logits.dim(), len(logits), logits.ndim) == (33, 3, 2, 3)
    assert torch.equal(logits.argmax(-1), real.argmax(-1))
    assert torch.equal(logits[:, -1].detach(), real[:, -1])
    assert logits.numpy(force=True).shape == (2, 6, 33)
    with pytest.raises(AttributeError):
        _ = logits.no_such_thing
    with pytest.raises(RuntimeError):
        logits.view(5, 33)


def test_changed_logits_stay_changed() -> None:
    hidden, weight, bias, target = draw()
    logits, real = DeferredLogits(hidden, weight, bias), made_now(hidden, weight, bias)
    logits[..., 3] = real[..., 3] = -100.0
    assert torch.equal(shifted(logits, target), shifted(real, target))


def test_autocast() -> None:
    hidden, weight, bias, target = draw()
    with torch.autocast("cpu", torch.bfloat16):
        real = made_now(hidden, weight, bias)
        layer = torch.nn.Linear(8, 33)
        layer.weight, layer.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
        logits = DeferredLogits.of(hidden, layer)
    assert logits.dtype == real.dtype == torch.bfloat16
    assert torch.equal(logits.tensor(), real)
    loss = DeferredLogits.of(hidden, layer).view(-1, 33)
    assert F.cross_entropy(loss, target.view(-1)).dtype == torch.float32


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_num_items_in_batch(family: str) -> None:
    """Four tokens count, wherever the batch was cut: transformers' own division."""
    model = models.decoder(family).train()
    batch = {
        "input_ids": models.tokens(2, 6),
        "labels": models.tokens(2, 6),
        "num_items_in_batch": torch.tensor(4),
    }
    plain = model(**batch).loss
    pyllm.patch(model)
    out = model(**batch)
    assert isinstance(out.logits, DeferredLogits)
    torch.testing.assert_close(out.loss, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        out.loss,
        F.cross_entropy(
            out.logits.tensor()[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
        )
        / 4,
    )


def test_real_logits_outside_training() -> None:
    model = models.decoder("llama")
    pyllm.patch(model)
    ids = models.tokens(1, 5)
    assert isinstance(model.train()(ids).logits, Tensor)
    assert isinstance(model.eval()(ids, labels=ids).logits, Tensor)
    with torch.no_grad():
        assert isinstance(model.train()(ids, labels=ids).logits, Tensor)


def test_hooks_on_the_head_see_logits() -> None:
    model = models.decoder("llama").train()
    pyllm.patch(model)
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(type(output)))
    ids = models.tokens(1, 5)
    model(ids, labels=ids).loss.backward()
    assert seen == [Tensor]


def test_freed_weight_is_said() -> None:
    logits = DeferredLogits(torch.zeros(1, 4), torch.zeros(3, 4))
    logits.weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="loss=False"):
        logits.tensor()
