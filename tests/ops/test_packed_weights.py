"""Packed copies of weights: the same bits as without, made anew after every change, gone with the weight."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import pyllm
from pyllm.ops import _library, linear
from pyllm.ops.packed_weights import DEFAULT_LIMIT, keep_packed_weights, packed_bytes

ROWS = 40


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    keep_packed_weights(0)
    keep_packed_weights()
    yield
    keep_packed_weights(0)
    keep_packed_weights()


def operands(rows: int = ROWS, depth: int = 300, out: int = 70) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(rows, depth, generator=g), torch.randn(out, depth, generator=g), torch.randn(out)


def plainly(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product of a copy of the weight that nobody has seen."""
    return torch.ops.pyllm.linear(x, weight.detach().clone(), bias)


def packs_here() -> bool:
    return torch.ops.pyllm.linear_pack(torch.ones(2, 2)).numel() > 0


@pytest.mark.parametrize("shape", [(17, 1, 1), (40, 300, 70), (100, 64, 48), (33, 2100, 50), (600, 576, 100)])
def test_bits_are_those_of_the_plain_product(isa: str, shape: tuple[int, int, int]) -> None:
    x, weight, bias = operands(*shape)
    if isa == "scalar":
        x, weight = x[:20, :50], weight[:, :50]
    expected = plainly(x, weight, bias)
    for _ in range(3):
        assert torch.equal(linear(x, weight, bias), expected)
        assert torch.equal(linear(x, weight), plainly(x, weight))
    assert (packed_bytes() > 0) == packs_here()
    for rows in (1, 5, 17):
        assert torch.equal(linear(x[:rows], weight, bias), expected[:rows])


def test_gradient_of_a_frozen_layer(isa: str) -> None:
    """Forward and grad x through a weight without gradient: both layouts are kept, bits stay."""
    x, weight, _ = operands()
    grad = torch.randn(ROWS, 70, generator=torch.Generator().manual_seed(1))
    expected = plainly(grad, weight.t())
    for calls in (1, 2, 3):
        leaf = x.clone().requires_grad_()
        y = linear(leaf, weight)
        assert torch.equal(torch.autograd.grad(y, leaf, grad)[0], expected)
        assert (packed_bytes() > 1.9 * weight.nbytes) == (calls > 1 and packs_here())


def no_grad_copy(weight: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(torch.ones_like(weight))


def optimizer_step(weight: Tensor) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.5).step()


def our_optimizer_step(weight: Tensor) -> None:
    weight.grad = torch.ones_like(weight)
    pyllm.optim.AdamW([weight], lr=0.5).step()


def load_state_dict(weight: Tensor) -> None:
    layer = torch.nn.Linear(300, 70, bias=False)
    layer.weight = weight
    layer.load_state_dict({"weight": torch.full_like(weight, 2)})


def data_copy(weight: Tensor) -> None:
    weight.data.copy_(torch.full_like(weight, 3))


def new_data(weight: Tensor) -> None:
    weight.data = torch.full_like(weight, 4)


def data_scaled(weight: Tensor) -> None:
    weight.data.mul_(2)


def through_numpy(weight: Tensor) -> None:
    weight.detach().numpy()[:] *= 3


def one_element(weight: Tensor) -> None:
    with torch.no_grad():
        weight[3, 7] = 100


CHANGES = [
    no_grad_copy,
    optimizer_step,
    our_optimizer_step,
    load_state_dict,
    data_copy,
    new_data,
    data_scaled,
]


@pytest.mark.parametrize("change", [*CHANGES, through_numpy, one_element], ids=lambda f: f.__name__)
def test_changes_are_followed(change: Callable[[Tensor], None]) -> None:
    x, weight, _ = operands()
    weight = torch.nn.Parameter(weight)
    with torch.no_grad():
        for _ in range(2):
            for _ in range(3):
                assert torch.equal(linear(x, weight), plainly(x, weight))
            assert packed_bytes() > 0 or not packs_here()
            before = linear(x, weight)
            with torch.enable_grad():
                change(weight)
            assert torch.equal(linear(x, weight), plainly(x, weight))
            if change not in (no_grad_copy, load_state_dict, data_copy, new_data, one_element):
                assert not torch.equal(linear(x, weight), before)


def test_what_is_never_kept() -> None:
    x, weight, _ = operands()

    def kept_after(call: Callable[[], object]) -> int:
        for _ in range(3):
            call()
        return packed_bytes()

    trained = torch.nn.Parameter(weight.clone())
    assert kept_after(lambda: linear(x, trained)) == 0
    assert kept_after(lambda: linear(x[:16], weight)) == 0
    assert kept_after(lambda: linear(x.bfloat16(), weight.bfloat16())) == 0
    assert kept_after(lambda: linear(x, weight.clone())) == 0
    assert kept_after(lambda: linear(x, weight.add_(1))) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert kept_after(lambda: linear(x, weight)) == 0
    with torch.inference_mode():
        inner = weight.clone()
        assert kept_after(lambda: linear(x, inner)) == 0
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    assert kept_after(lambda: compiled(x, weight)) == 0


@pytest.mark.skipif(not _library.LOADED or not packs_here(), reason="this level keeps nothing")
def test_memory_is_bounded_and_dies_with_the_weight() -> None:
    x, weight, _ = operands()
    other = weight.clone()
    keep_packed_weights(int(1.5 * weight.nbytes))
    for _ in range(3):
        linear(x, weight)
        linear(x, other)
    assert 0 < packed_bytes() < 2 * weight.nbytes
    del weight, other
    gc.collect()
    assert packed_bytes() == 0
    with pytest.raises(ValueError, match="limit_bytes"):
        keep_packed_weights(-1)
    assert DEFAULT_LIMIT > 0


def test_copies_of_a_layer_know_nothing_of_it() -> None:
    x, _, _ = operands()
    layer = pyllm.nn.Linear(300, 70, bias=False).requires_grad_(False)
    for _ in range(3):
        layer(x)
    assert list(layer.state_dict()) == ["weight"]
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    assert buffer.getbuffer().nbytes < 2 * layer.weight.nbytes
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        twin.weight.mul_(2)
        assert torch.equal(twin(x), plainly(x, twin.weight))
        assert torch.equal(layer(x), plainly(x, layer.weight))
    layer.to(torch.float64)
    assert layer(x.double()).dtype == torch.float64


def test_a_pack_of_another_level_is_passed_over() -> None:
    x, weight, _ = operands(out=48)
    for level in torch.ops.pyllm.compiled_levels().split():
        try:
            with _library.forced_isa(level):
                for _ in range(2):
                    assert torch.equal(linear(x, weight), plainly(x, weight))
        except RuntimeError:
            continue  # the machine lacks it


def test_threads_share_it() -> None:
    x, weight, _ = operands()
    expected, results = plainly(x, weight), []

    def work() -> None:
        results.extend(torch.equal(linear(x, weight), expected) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


def test_a_malformed_pack_does_no_harm() -> None:
    x, weight, bias = operands()
    for packed in (
        torch.empty(0),
        torch.zeros(7),
        torch.zeros(100000),
        torch.ones(70, 300, dtype=torch.int64),
    ):
        assert torch.equal(torch.ops.pyllm.linear_packed(x, weight, packed, bias), plainly(x, weight, bias))
