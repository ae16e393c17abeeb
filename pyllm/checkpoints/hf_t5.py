"""T5's folders: config.json to `EncoderDecoderConfig` and back, tensor names to ours and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyllm.checkpoints.stored import StoredTensor
from pyllm.models.encoder_decoder import EncoderDecoderConfig

ARCHITECTURE = "T5ForConditionalGeneration"
# Ours -> theirs.
_REQUIRED = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "head_dim": "d_kv",
    "intermediate_size": "d_ff",
    "num_encoder_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
_OPTIONAL = {
    "relative_buckets": "relative_attention_num_buckets",
    "relative_max_distance": "relative_attention_max_distance",
    "rms_norm_eps": "layer_norm_epsilon",
    "decoder_start_token_id": "decoder_start_token_id",
    "max_position_embeddings": "n_positions",
    "pad_token_id": "pad_token_id",
}
# feed_forward_proj -> (gated_mlp, hidden_act); "gated-gelu" has always meant the tanh form.
_FEED_FORWARD = {
    "relu": (False, "relu"),
    "gated-gelu": (True, "gelu_tanh"),
    "gated-silu": (True, "silu"),
}
_ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
_T = TypeVar("_T", StoredTensor, Tensor)


def t5_config_from_hf(data: dict[str, Any], stored: Mapping[str, object]) -> EncoderDecoderConfig:
    """What config.json says; the tensors' names tell whether the head is tied.

    Raises:
        ValueError: a missing key, an option that is not supported, or an impossible value; names it.
    """
    missing = [key for key in _REQUIRED.values() if key not in data]
    if missing:
        raise ValueError(f"config.json lacks {missing}")
    kind = data.get("feed_forward_proj", "relu")
    if kind not in _FEED_FORWARD:
        raise ValueError(f"feed_forward_proj must be one of {sorted(_FEED_FORWARD)}, got {kind!r}")
    gated, activation = _FEED_FORWARD[kind]
    # Files before transformers 5 say it by tie_word_embeddings.
    scaled = data.get("scale_decoder_outputs", data.get("tie_word_embeddings", True))
    eos = data.get("eos_token_id", 1)
    width = data["d_model"]
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"d_model must be a positive integer, got {width!r}")
    return EncoderDecoderConfig(
        **{ours: data[theirs] for ours, theirs in _REQUIRED.items()},
        **{ours: data[theirs] for ours, theirs in _OPTIONAL.items() if data.get(theirs) is not None},
        num_hidden_layers=data.get("num_decoder_layers") or data["num_layers"],
        gated_mlp=gated,
        hidden_act=activation,
        logit_scale=width**-0.5 if scaled else 1.0,
        tie_word_embeddings="lm_head.weight" not in stored,
        eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
    )


def t5_config_to_hf(config: EncoderDecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of `config`. Raises ValueError for an option that it cannot express."""
    kinds = {value: key for key, value in _FEED_FORWARD.items()}
    kind, scaled = kinds.get((config.gated_mlp, config.hidden_act)), config.logit_scale != 1.0
    if kind is None or (scaled and config.logit_scale != config.hidden_size**-0.5):
        raise ValueError("a t5 config.json cannot express this model's hidden_act or logit_scale")
    eos = list(config.eos_token_ids)
    return {theirs: getattr(config, ours) for ours, theirs in (_REQUIRED | _OPTIONAL).items()} | {
        "architectures": [ARCHITECTURE],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "num_decoder_layers": config.num_hidden_layers,
        "feed_forward_proj": kind,
        "scale_decoder_outputs": scaled,
        "tie_word_embeddings": scaled,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def t5_from_hf(config: EncoderDecoderConfig, stored: Mapping[str, _T]) -> dict[str, _T]:
    """Tensors under our names; those without a rule keep theirs. Copies of the embedding are left out."""
    theirs_to_ours = {theirs: ours for ours, theirs in _names(config).items()}
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return {theirs_to_ours.get(name, name): t for name, t in stored.items() if name not in copies}


def t5_to_hf(config: EncoderDecoderConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse."""
    names = _names(config)
    return {names[name]: tensor for name, tensor in state.items()}


def _names(config: EncoderDecoderConfig) -> dict[str, str]:
    """Our name of every tensor -> theirs."""
    names = {"embed_tokens": "shared", "lm_head": "lm_head"}
    for side, layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_hidden_layers)):
        names[f"{side}.norm"] = f"{side}.final_layer_norm"
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
        names[f"{side}.relative_bias"] = bias
        for layer in range(layers):
            for ours, theirs in _layer_names(side == "decoder", config.gated_mlp).items():
                names[f"{side}.layers.{layer}.{ours}"] = f"{side}.block.{layer}.layer.{theirs}"
    return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in names.items()}


def _layer_names(is_decoder: bool, gated: bool) -> dict[str, str]:
    names = {"input_layernorm": "0.layer_norm"}
    names |= {f"self_attn.{ours}": f"0.SelfAttention.{theirs}" for ours, theirs in _ATTENTION.items()}
    last = 1
    if is_decoder:
        last = 2
        names["cross_attn_layernorm"] = "1.layer_norm"
        names |= {f"cross_attn.{ours}": f"1.EncDecAttention.{theirs}" for ours, theirs in _ATTENTION.items()}
    inward = {"mlp.gate_proj": "wi_0", "mlp.up_proj": "wi_1"} if gated else {"mlp.up_proj": "wi"}
    dense = inward | {"mlp.down_proj": "wo"}
    names |= {ours: f"{last}.DenseReluDense.{theirs}" for ours, theirs in dense.items()}
    return names | {"post_attention_layernorm": f"{last}.layer_norm"}
