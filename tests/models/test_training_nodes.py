"""A layer's training nodes: the gradients of the modules they stand for, what they keep, and what they make again."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pyllm import ops
from pyllm.models import ModelConfig, Transformer, gpt2_config, layers, transformer

_SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 77,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": ModelConfig(**_SMALL),
    "qwen3": ModelConfig(**_SMALL, qk_norm=True, attention_bias=True, head_dim=10),
    "window": ModelConfig(**_SMALL, sliding_window=7, mlp_bias=True, attention_output_bias=True),
    "gemma3": ModelConfig(
        **_SMALL,
        head_dim=10,
        qk_norm=True,
        norm_weight_offset=1.0,
        sandwich_norms=True,
        embedding_scale=7.0,
        hidden_act="gelu_tanh",
        sliding_window=7,
        layer_types=("sliding_attention", "full_attention", "sliding_attention"),
        local_rope_theta=100.0,
    ),
    "gpt2": gpt2_config(97, 48, 3, 6),
    "gpt2-no-bias": gpt2_config(97, 48, 3, 6, bias=False, hidden_act="gelu"),
}
BATCH, TOKENS = 3, 40
PACKED = torch.zeros(BATCH, TOKENS, dtype=torch.int64)
PACKED[:, 17:] = 1


def network(config: ModelConfig, dtype: torch.dtype = torch.float32, kind: str = "none") -> Transformer:
    torch.manual_seed(0)
    made = Transformer(config, dtype=torch.float32, activation_checkpointing=kind)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return made.to(dtype)


def gradients(
    model: Transformer, *, packed: bool = False, bf16: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    ids = torch.randint(0, 97, (BATCH, TOKENS + 1), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model.hidden_states(ids[:, :-1], document_ids=PACKED if packed else None)
        loss = ops.linear_cross_entropy(hidden, model.lm_head_weight, ids[:, 1:])
    loss.backward()
    return loss.detach(), {name: _gradient(p) for name, p in model.named_parameters()}


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.fixture
def module_by_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Layers run their modules one after the other, each operator recorded by autograd."""
    with monkeypatch.context() as patch:
        patch.setattr(layers, "can_run_directly", lambda *_: False)
        yield


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_the_modules(name: str, packed: bool, request: pytest.FixtureRequest) -> None:
    loss, ours = gradients(network(CONFIGS[name], torch.float64), packed=packed)
    request.getfixturevalue("module_by_module")
    expected_loss, expected = gradients(network(CONFIGS[name], torch.float64), packed=packed)
    assert torch.equal(loss, expected_loss)
    for parameter, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_as_accurate_as_the_modules(
    name: str, case: str, request: pytest.FixtureRequest
) -> None:
    dtype = torch.bfloat16 if case == "bfloat16" else torch.float32
    _, exact = gradients(network(CONFIGS[name], dtype).double())
    loss, ours = gradients(network(CONFIGS[name], dtype), bf16=case == "autocast")
    request.getfixturevalue("module_by_module")
    expected_loss, theirs = gradients(network(CONFIGS[name], dtype), bf16=case == "autocast")
    assert torch.equal(loss, expected_loss)
    for parameter, reference in exact.items():
        assert ours[parameter].dtype == dtype
        # Without rotation a key's bias moves no probability: its gradient is zero but for rounding.
        if name == "gpt2" and parameter.endswith("k_proj.bias"):
            continue
        error, allowed = (
            (gradient[parameter].double() - reference).square().mean().sqrt() for gradient in (ours, theirs)
        )
        assert error <= 2 * allowed + 1e-7 * reference.abs().max(), parameter


@pytest.mark.parametrize("case", ["float32", "bfloat16", "autocast", "packed"])
@pytest.mark.parametrize("kind", ["selective", "full"])
@pytest.mark.parametrize("name", CONFIGS)
def test_recomputation_changes_no_bit(name: str, kind: str, case: str) -> None:
    dtype = torch.bfloat16 if case == "bfloat16" else torch.float32
    options = {"bf16": case == "autocast", "packed": case == "packed"}
    loss, kept = gradients(network(CONFIGS[name], dtype), **options)
    other_loss, again = gradients(network(CONFIGS[name], dtype, kind), **options)
    assert torch.equal(loss, other_loss)
    assert all(torch.equal(gradient, again[parameter]) for parameter, gradient in kept.items())


@pytest.mark.usefixtures("module_by_module")
def test_recomputation_of_modules_changes_no_bit() -> None:
    """Where layers hold what is no module of ours, torch's own checkpointing makes it again."""
    _, kept = gradients(network(CONFIGS["qwen3"]))
    for kind in ("selective", "full"):
        _, again = gradients(network(CONFIGS["qwen3"], kind=kind))
        assert all(torch.equal(gradient, again[parameter]) for parameter, gradient in kept.items())


@pytest.mark.parametrize("packed", [False, True])
def test_same_bits_at_any_thread_count(packed: bool) -> None:
    made, threads = {}, torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            made[count] = gradients(network(CONFIGS["llama"], torch.bfloat16), packed=packed)[1]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, made[2][parameter]) for parameter, gradient in made[1].items())


def kept_bytes(model: Transformer) -> int:
    """Bytes of all storages that the backward of hidden_states holds on to, weights apart."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.hidden_states(torch.zeros(BATCH, TOKENS, dtype=torch.int64))
    assert hidden.requires_grad
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for pointer, size in storages.items() if pointer not in weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", transformer.ACTIVATION_CHECKPOINTING)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_kept_per_token_and_layer(name: str, kind: str, dtype: torch.dtype) -> None:
    """The table of docs/training_step.md, to the byte."""
    config = CONFIGS[name]
    query, key = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    attention = dtype.itemsize * (2 * query + 2 * key) + 4 * config.num_attention_heads
    mlp = dtype.itemsize * config.intermediate_size * (2 if config.gated_mlp else 1)
    recomputed = {"none": 0, "selective": mlp, "full": mlp + attention}[kind]
    expected = dtype.itemsize * 2 * config.hidden_size + attention + mlp - recomputed

    shallow = copy.deepcopy(network(config, dtype, kind))
    del shallow.model.layers[-1]
    one_layer = kept_bytes(network(config, dtype, kind)) - kept_bytes(shallow)
    assert one_layer == BATCH * TOKENS * expected


def test_hooks_and_replaced_modules_are_called() -> None:
    seen = []
    model = network(CONFIGS["llama"])
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: seen.append("hook"))
    model.model.layers[2].self_attn.q_proj = torch.nn.Sequential(model.model.layers[2].self_attn.q_proj)
    _, with_guests = gradients(model)
    _, plain = gradients(network(CONFIGS["llama"]))
    assert seen == ["hook"]
    renamed = {name.replace("q_proj.0", "q_proj"): gradient for name, gradient in with_guests.items()}
    for name, gradient in plain.items():
        torch.testing.assert_close(renamed[name], gradient)


def test_frozen_weights_get_no_gradient() -> None:
    model = network(CONFIGS["window"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("down_proj" in name)
    ids = torch.zeros(1, 5, dtype=torch.int64)
    model.hidden_states(ids).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("down_proj" in name)


def test_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="activation_checkpointing must be one of"):
        network(CONFIGS["llama"]).activation_checkpointing = "some"
