"""Configurations with a name: published models, small ones to train here, and families made from a few numbers."""

from __future__ import annotations

import dataclasses

from pyllm.models.config import ModelConfig


def gpt2_config(
    vocab_size: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    *,
    bias: bool = True,
    hidden_act: str = "gelu_tanh",
    max_position_embeddings: int = 1024,
) -> ModelConfig:
    """GPT-2's architecture (Radford et al., 2019): LayerNorm, learned positions, an MLP four times as wide, tied head.

    `bias` is that of linear layers and norms; nanoGPT trains with `bias=False` and `hidden_act="gelu"`.
    """
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        max_position_embeddings=max_position_embeddings,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=bias,
        norm="layer_norm",
        norm_bias=bias,
        position_embedding="learned",
        gated_mlp=False,
        hidden_act=hidden_act,
        model_type="gpt2",
    )


def gpt3_config(
    vocab_size: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    *,
    band: int = 256,
    max_position_embeddings: int = 2048,
) -> ModelConfig:
    """GPT-3's architecture (Brown et al., 2020): GPT-2 whose layers attend to everything and to a band in turn.

    `band` is the number of tokens that a banded layer sees, the last ones; the paper follows the Sparse Transformer
    without giving it, GPT-Neo's is 256.
    """
    dense = gpt2_config(
        vocab_size,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        max_position_embeddings=max_position_embeddings,
    )
    kinds = ("full_attention", "sliding_attention")
    return dataclasses.replace(
        dense,
        sliding_window=band,
        layer_types=tuple(kinds[layer % 2] for layer in range(num_hidden_layers)),
        model_type="gpt3",
    )


def palm_config(
    vocab_size: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    *,
    head_dim: int = 256,
    max_position_embeddings: int = 2048,
) -> ModelConfig:
    """PaLM's architecture (Chowdhery et al., 2022): parallel blocks, multi-query attention, SwiGLU, RoPE, no biases."""
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=1,
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        norm="layer_norm",
        parallel_block=True,
        rope_interleaved=True,
        model_type="cohere",
    )


PRESETS = {
    # 0.8 M parameters: a second of training in a test.
    "tiny": ModelConfig(
        vocab_size=8192,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    ),
    # 3.2 M: learns the look of source code in 90 seconds on two cores (6.5 M sees half the tokens and learns less).
    "demo": ModelConfig(
        vocab_size=8192,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    ),
    "smollm2-135m": ModelConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        tie_word_embeddings=True,
    ),
    "llama3-8b": ModelConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
    ),
}


def preset(name: str, **changes: object) -> ModelConfig:
    """A named configuration with some fields replaced, e.g. `preset("demo", vocab_size=4096)`.

    Fields that are not named stay as they are: with another `hidden_size` the heads keep their size.

    Raises:
        ValueError: unknown name; TypeError: unknown field.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}, expected one of {sorted(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)  # type: ignore[arg-type]
