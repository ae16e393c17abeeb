"""Layers in one call: which decoders take it, and that its bits are those of the modules one after the other."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor

from pyllm.models import ModelConfig, Transformer, new_paged_caches, paged_hidden_states, whole_step
from pyllm.nn import Linear
from pyllm.ops import decoder_step
from pyllm.quantization.quantize import quantize_network
from tests.models.hf import VARIANTS, ids
from tests.models.test_transformer import ours
from tests.ops.conftest import isa, pytest_generate_tests  # noqa: F401 - a fixture and its levels
from tests.ops.numerics import assert_same_bits_at_any_thread_count

FORMATS = ("q4_0", "q4_1", "q5_0", "q8_0", "q4_k", "q6_k", "iq4_nl", "mxfp4")
FORMATS += ("int8", "int4_g128", "int8_g32_zp", "nf4", "fp8_e4m3")
DECODERS = [variant for variant in VARIANTS if "moe" not in variant and variant != "mixtral"]
# Tokens of three sequences in the steps of one run.
STEPS = ((20, 3, 0), (1, 1, 1), (0, 2, 17), (5, 1, 1), (1, 1, 1))


def run(network: Transformer, steps: tuple[tuple[int, ...], ...] = STEPS) -> list[Tensor]:
    """Hidden states of each step, then all that the caches hold."""
    pages_each, sequences = 4, len(steps[0])
    caches = new_paged_caches(network.config, pages_each * sequences, page_size=16, dtype=network.dtype)
    for cache in caches:
        cache.data.zero_()
    tables = torch.arange(pages_each * sequences).flip(0).view(sequences, pages_each)
    done, found = torch.zeros(sequences, dtype=torch.int64), []
    for number, counts in enumerate(steps):
        rows = [row for row, count in enumerate(counts) if count]
        tokens = sum(counts)
        positions = torch.cat([torch.arange(counts[row]) + done[row] for row in rows])
        done += torch.tensor(counts)
        found.append(
            paged_hidden_states(
                network,
                ids(1, tokens, seed=number)[0],
                positions,
                caches,
                tables[rows],
                done[rows],
                torch.tensor([0, *(counts[row] for row in rows)]).cumsum(0),
            )
        )
    return [*found, *(cache.data for cache in caches)]


def by_modules(network: Transformer, *arguments: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    with mock.patch.object(whole_step, "MAX_TOKENS", 0):
        return run(network, *arguments)


def in_one_call(network: Transformer, *arguments: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """Fails where a step runs module by module."""
    with mock.patch.object(type(network.model), "forward", side_effect=AssertionError("not in one call")):
        return run(network, *arguments)


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours_, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours_, theirs)


@functools.cache
def plain(variant: str) -> Transformer:
    return ours(variant)


def small(**options: object) -> Transformer:
    """Wide enough for blocks of 256."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
    return Transformer(ModelConfig(**(sizes | heads | options)))  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_but_mixtures_of_experts_run_in_one_call(variant: str) -> None:
    network = plain(variant)
    prepared = whole_step.prepared_network(network.model, network.config)
    assert (prepared is not None) == (variant in DECODERS)


@pytest.mark.parametrize("variant", DECODERS)
@torch.inference_mode()
def test_families_give_the_bits_of_their_modules(variant: str, isa: str) -> None:  # noqa: F811
    for dtype in (torch.float32, torch.bfloat16):
        network = copy.deepcopy(plain(variant)).to(dtype)
        assert_same_bits(in_one_call(network), by_modules(network))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("variant", ["gemma3", "gpt2", "cohere"])
@torch.inference_mode()
def test_other_dtypes(variant: str, dtype: torch.dtype, isa: str) -> None:  # noqa: F811
    network = copy.deepcopy(plain(variant)).to(dtype)
    assert_same_bits(in_one_call(network), by_modules(network))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", FORMATS)
@torch.inference_mode()
def test_quantized_weights_give_the_bits_of_their_modules(format: str, dtype: torch.dtype, isa: str) -> None:  # noqa: F811
    network = small(attention_bias=True).to(dtype)
    quantize_network(network, format)
    assert_same_bits(in_one_call(network), by_modules(network))


@pytest.mark.parametrize("quantize", [None, "q8_0"])
@torch.inference_mode()
def test_any_number_of_rows(quantize: str | None, isa: str) -> None:  # noqa: F811
    network = small(num_hidden_layers=1)
    if quantize:
        quantize_network(network, quantize)
    for rows in (1, 2, 3, 4, 8, 15, 16, 17, 32, 33, 64):
        steps = ((1,) * rows, (1,) * rows)
        assert_same_bits(in_one_call(network, steps), by_modules(network, steps))
    assert_same_bits(in_one_call(network, ((64,),)), by_modules(network, ((64,),)))


@torch.inference_mode()
def test_threads_do_not_matter() -> None:
    network = small().to(torch.bfloat16)
    quantize_network(network, "q4_1")
    assert_same_bits_at_any_thread_count(lambda: in_one_call(network))


@torch.inference_mode()
def test_runs_in_a_forked_process() -> None:
    network = small()
    expected = in_one_call(network)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # as torch asks of workers: OpenMP's threads do not survive a fork
        same = all(map(torch.equal, in_one_call(network), expected))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def _replace_a_layer(network: Transformer) -> None:
    network.model.layers[1].mlp.up_proj = Linear(256, 512, bias=False)


def _replace_a_parameter(network: Transformer) -> None:
    norm = network.model.layers[0].input_layernorm
    norm.weight = torch.nn.Parameter(torch.rand_like(norm.weight))


def _swap_storage(network: Transformer) -> None:
    weight = network.model.layers[0].self_attn.o_proj.weight
    weight.data = torch.rand(weight.shape)


def _change_in_place(network: Transformer) -> None:
    network.model.norm.weight.mul_(2)


def _quantize(network: Transformer) -> None:
    quantize_network(network, "q8_0")


def _transpose(network: Transformer) -> None:
    weight = network.model.layers[0].mlp.down_proj.weight
    weight.data = weight.data.t().contiguous().t()


def _cast(network: Transformer) -> None:
    network.to(torch.bfloat16)


CHANGES = [
    _replace_a_layer,
    _replace_a_parameter,
    _swap_storage,
    _change_in_place,
    _quantize,
    _transpose,
    _cast,
]


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changes_of_the_network_are_seen(change: Callable[[Transformer], None]) -> None:
    network = small()
    before = in_one_call(network)
    change(network)
    after = in_one_call(network)
    assert_same_bits(after, by_modules(network))
    assert not torch.equal(before[0], after[0])


class Doubled(Linear):
    """An adapter, of a kind that the op knows nothing about."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@torch.no_grad()
def test_adapters_and_hooks_are_honoured() -> None:
    network = small()
    before, seen = in_one_call(network), []
    handle = network.model.layers[1].mlp.register_forward_hook(lambda *_: seen.append(1))
    assert_same_bits(run(network), before)
    assert len(seen) == len(STEPS)
    handle.remove()
    layer = network.model.layers[1]
    with mock.patch.object(layer, "forward", side_effect=layer.forward) as forward:
        assert_same_bits(run(network), before)
    assert forward.call_count == len(STEPS)
    assert_same_bits(in_one_call(network), before)
    network.model.layers[0].mlp.up_proj = Doubled(256, 512, bias=False)
    assert whole_step.prepared_network(network.model, network.config) is None
    run(network)


def test_where_gradients_are_recorded_modules_run() -> None:
    with pytest.raises(ValueError, match="requires a gradient"):
        run(small())


@torch.no_grad()
def test_networks_are_forgotten_with_their_decoders() -> None:
    network = small()
    prepared = whole_step.prepared_network(network.model, network.config)
    assert prepared is whole_step.prepared_network(network.model, network.config)
    number, known = prepared._id, len(whole_step._prepared)
    del network, prepared
    assert len(whole_step._prepared) == known - 1
    with pytest.raises(RuntimeError, match="decoder_network"):
        torch.ops.pyllm.decoder_step(*_arguments(number))


def _arguments(network: int) -> tuple[object, ...]:
    table, one = torch.zeros(1, 1, dtype=torch.int64), torch.tensor([1])
    return (torch.zeros(1, 256), network, [], [], one, [table], one, None, torch.tensor([0, 1]), 16)


@torch.inference_mode()
def test_the_operator_passes_opcheck_and_refuses_what_does_not_fit() -> None:
    network = small(num_hidden_layers=1)
    prepared = whole_step.prepared_network(network.model, network.config)
    caches = new_paged_caches(network.config, 2, page_size=16)
    angles, _ = network.model.angles(4, torch.device("cpu"))
    good = {
        "x": torch.randn(2, 256),
        "network": prepared,
        "caches": caches,
        "angles": angles,
        "position_ids": torch.tensor([0, 1]),
        "block_tables": [torch.tensor([[1]])],
        "lengths": torch.tensor([2]),
        "cu_seqlens_q": torch.tensor([0, 2]),
    }
    decoder_step(**good)  # type: ignore[arg-type]
    with torch.inference_mode(False):
        x = torch.randn(2, 256)
        tensors = (x, prepared._id, [torch.zeros_like(caches[0].data)], [t.clone() for t in angles])
        places = (
            torch.tensor([0, 1]),
            [torch.tensor([[1]])],
            torch.tensor([2]),
            None,
            torch.tensor([0, 2]),
            16,
        )
        torch.library.opcheck(torch.ops.pyllm.decoder_step.default, tensors + places)
    for name, value, error, message in [
        ("x", torch.randn(2, 255), RuntimeError, "hidden_size"),
        ("x", torch.randn(2, 256).double(), RuntimeError, "float64"),
        ("caches", [], ValueError, "caches must have one entry for each of 1 layers, got 0"),
        ("caches", new_paged_caches(network.config, 2, dtype=torch.float16), RuntimeError, "cache"),
        ("angles", angles[:1], RuntimeError, "angles"),
        ("angles", [t[:, :3] for t in angles], RuntimeError, "contiguous"),
        ("position_ids", torch.tensor([0, 256]), ValueError, r"position_ids must lie in \[0, 256\), got 256"),
        ("position_ids", torch.tensor([-1, 0]), ValueError, "position_ids"),
        ("position_ids", torch.tensor([0, 16]), ValueError, "capacity"),
        ("position_ids", torch.tensor([0]), RuntimeError, "one entry per token"),
        ("block_tables", [torch.tensor([[2]])], ValueError, r"pages in \[0, 2\), got 2"),
        ("block_tables", [torch.tensor([[0], [1]])], RuntimeError, "block_table"),
        ("lengths", torch.tensor([17]), ValueError, "lengths"),
        ("cu_seqlens_q", torch.tensor([0, 1]), ValueError, "cu_seqlens_q"),
        ("prefix_lengths", torch.tensor([-1]), ValueError, "prefix_length"),
    ]:
        with pytest.raises(error, match=message):
            decoder_step(**(good | {name: value}))  # type: ignore[arg-type]
