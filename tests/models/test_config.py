"""ModelConfig: checks, defaults and parameter counts."""

from __future__ import annotations

import dataclasses

import pytest

from pyllm.models import PRESETS, MixtureOfExperts, ModelConfig, RopeScaling, preset

SMALL = ModelConfig(
    vocab_size=11, hidden_size=12, intermediate_size=7, num_hidden_layers=2, num_attention_heads=3
)


def test_defaults_follow_the_heads() -> None:
    assert SMALL.num_key_value_heads == 3
    assert SMALL.head_dim == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be a positive integer, got 0"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_attention_heads": 2.0}, "num_attention_heads"),
        ({"num_key_value_heads": 2}, "multiple of num_key_value_heads"),
        ({"head_dim": 5}, "head_dim must be even"),
        ({"head_dim": None, "hidden_size": 13}, "hidden_size"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"rope_theta": "1e4"}, "rope_theta"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"rotary_dim": 3}, "rotary_dim must be even"),
        ({"rotary_dim": 6}, "rotary_dim must be even and at most head_dim"),
        ({"attention_softcap": 0.0}, "attention_softcap must be a positive number"),
        ({"parallel_block": True, "sandwich_norms": True}, "sandwich_norms must be False"),
        ({"prefix_decoder": True, "sliding_window": 4}, "sliding_window must be None for a prefix_decoder"),
        ({"rope_scaling": RopeScaling("longrope", 2.0)}, "needs 2 short_factors and long_factors, got 0"),
        ({"head_dim": 2, "rope_scaling": RopeScaling("dynamic", 2.0)}, "rotary_dim above 2"),
        ({"layer_types": ("full_attention",)}, "layer_types"),
        ({"bos_token_id": "<s>"}, "bos_token_id must be an integer or None"),
        ({"eos_token_ids": ("</s>",)}, "eos_token_ids must be integers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most"),
        ({"qk_norm": 1}, "qk_norm must be True or False"),
        ({"layer_types": ("full_attention", "other")}, "layer_types"),
        ({"layer_types": ("sliding_attention",) * 2}, "sliding_window is None"),
    ],
)
def test_impossible_values(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "ntk", "factor": 2.0}, "'ntk' is not supported"),
        ({"kind": "yarn", "factor": 2.0, "attention_factor": -1.0}, "attention_factor"),
        ({"kind": "yarn", "factor": 2.0, "truncate": 1}, "truncate must be True or False"),
        ({"kind": "longrope", "factor": 2.0, "short_factors": (1.0,)}, "long_factors must be as many"),
        ({"kind": "longrope", "factor": 2.0, "short_factors": (0.0,)}, "short_factors must be a tuple of"),
        ({"kind": "linear", "factor": 0.0}, "factor"),
        ({"kind": "llama3", "factor": 8.0, "low_freq_factor": 4.0}, "high_freq_factor must exceed"),
    ],
)
def test_impossible_rope_scaling(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RopeScaling(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 4), "num_experts must be a positive integer"),
        ((2, 3, 4), r"experts_per_token must be at most num_experts \(2\), got 3"),
        ((10**9, 1, 4), "num_experts must be at most"),
    ],
)
def test_impossible_experts(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureOfExperts(*arguments)


def test_window_per_layer() -> None:
    everywhere = dataclasses.replace(SMALL, sliding_window=5)
    assert [everywhere.window(0), everywhere.window(1)] == [5, 5]
    mixed = dataclasses.replace(everywhere, layer_types=("full_attention", "sliding_attention"))
    assert [mixed.window(0), mixed.window(1)] == [None, 5]
    assert SMALL.window(0) is None


def test_published_sizes() -> None:
    # The counts on the model cards.
    assert PRESETS["smollm2-135m"].num_parameters() == 134_515_008
    assert PRESETS["llama3-8b"].num_parameters() == 8_030_261_248
    assert 3e6 < PRESETS["demo"].num_parameters() < 4e6
    assert PRESETS["demo"].num_parameters(embeddings=False) < PRESETS["demo"].num_parameters()


def test_preset() -> None:
    assert preset("demo", vocab_size=300).vocab_size == 300
    with pytest.raises(ValueError, match="unknown preset 'big', expected one of"):
        preset("big")
    with pytest.raises(TypeError, match="width"):
        preset("demo", width=3)
