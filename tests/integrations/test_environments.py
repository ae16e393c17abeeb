"""Patched models and pyllm's modules where PyTorch does something to a model: one test for each."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import pyllm
from tests.integrations import models
from tests.ops.numerics import GRADIENT, assert_as_accurate

FAMILIES = ["llama", "gemma2"]


def patched(family: str, **options: Any) -> Any:
    model = models.decoder(family, **options)
    pyllm.patch(model, linear=True)
    return model.train()


def loss_and_grads(model: Any, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("family", ["llama", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_compile_whole_and_dynamic(family: str) -> None:
    """One graph, for any length; aot_eager runs what the compiler traced without compiling C++."""
    model = patched(family, num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (9, 14):
        ids = models.tokens(2, length)
        with torch._dynamo.config.patch(error_on_recompile=length == 14):
            loss, grads = loss_and_grads(compiled, ids)
        expected, expected_grads = loss_and_grads(model, ids)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
def test_inductor() -> None:
    model = patched("llama")
    ids = models.tokens(2, 9)
    loss, grads = loss_and_grads(torch.compile(model, fullgraph=True), ids)
    expected, expected_grads = loss_and_grads(model, ids)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast(family: str) -> None:
    """As accurate as unpatched under the same autocast; float32 is exact enough for bfloat16."""
    ours, plain, _ = models.twins(lambda: models.decoder(family))
    exact = copy.deepcopy(plain)
    pyllm.patch(ours, linear=True)
    sides = []
    for model, cast in ((ours, True), (plain, True), (exact, False)):
        draws = []
        for seed in range(4):
            with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                draws.append(loss_and_grads(model.train(), models.tokens(2, 9, seed))[1])
        sides.append([torch.stack(grads) for grads in zip(*draws, strict=True)])
    for mine, theirs, right in zip(*sides, strict=True):
        # The ulp of the rule is bfloat16's: the gradients are float32, what they are made of is not.
        assert_as_accurate(mine.bfloat16(), theirs.bfloat16(), right, GRADIENT)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant: bool) -> None:
    model = patched("llama")
    ids = models.tokens(2, 9)
    expected, expected_grads = loss_and_grads(model, ids)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    loss, grads = loss_and_grads(model, ids)
    assert torch.equal(loss, expected)
    for a, b in zip(grads, expected_grads, strict=True):
        assert torch.equal(a, b)


def test_torch_func() -> None:
    """Gradients of each text by vmap over grad are those of one text at a time."""
    model = patched("llama").eval()
    parameters = dict(model.named_parameters())

    def loss(weights: dict[str, Tensor], ids: Tensor) -> Any:
        logits = torch.func.functional_call(model, weights, (ids[None],)).logits
        return torch.nn.functional.cross_entropy(logits[0, :-1], ids[1:])

    ids = models.tokens(3, 8)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, ids)
    for row in range(3):
        alone = torch.func.grad(loss)(parameters, ids[row])
        for name, grad in alone.items():
            torch.testing.assert_close(each[name][row], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_export(family: str) -> None:
    model = patched(family).eval()
    ids = models.tokens(2, 9)
    length = torch.export.Dim("length", min=2, max=60)
    program = torch.export.export(
        model,
        (ids,),
        {"use_cache": False},
        dynamic_shapes={"input_ids": {1: length}, "use_cache": None},
    )
    assert any("pyllm.attention" in str(node.target) for node in program.graph.nodes)
    for tokens in (ids, models.tokens(2, 13)):
        torch.testing.assert_close(program.module()(tokens, use_cache=False).logits, model(tokens).logits)


def test_meta_device() -> None:
    """A model made without memory is patched as it is made, filled later, and runs."""
    filled = models.decoder("llama")
    pyllm.patch()
    with torch.device("meta"):
        model = models.transformers.AutoModelForCausalLM.from_config(copy.deepcopy(filled.config))
    assert all(p.is_meta for p in model.parameters())
    assert model(torch.zeros(2, 9, dtype=torch.int64, device="meta")).logits.shape == (
        2,
        9,
        models.VOCABULARY,
    )
    model.to_empty(device="cpu")
    model.load_state_dict(filled.state_dict())
    model.model.rotary_emb = copy.deepcopy(filled.model.rotary_emb)  # buffers that are not in the state
    ids = models.tokens(2, 9)
    torch.testing.assert_close(model.eval()(ids).logits, filled.eval()(ids).logits)


def test_deepcopy_computes_with_its_own_weights() -> None:
    model = patched("llama").eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    ids = models.tokens(1, 5)
    assert twin(ids).logits.abs().max() == 0
    assert model(ids).logits.abs().max() > 0
