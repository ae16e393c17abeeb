"""Small random models of other people's libraries, and batches for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")
VOCABULARY = 97

_DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"sliding_window": 5}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 5}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 5}),
    "phi3": ("Phi3Config", {}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "qwen2_moe": ("Qwen2MoeConfig", {**_MOE, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("Qwen3MoeConfig", {**_MOE, "head_dim": 8}),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
}
DECODERS = tuple(_CONFIGS)
_BERT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_key_value_heads": None}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "initializer_factor": 1.0,
    "decoder_start_token_id": 0,
}


def decoder(family: str, **options: Any) -> Any:
    """A causal language model of the family, drawn anew from the same seed."""
    name, changes = _CONFIGS[family]
    common = {k: v for k, v in _DECODER.items() if family != "gpt2" or k != "intermediate_size"}
    config = getattr(transformers, name)(**{**common, **changes, **options})
    return _made(transformers.AutoModelForCausalLM, config)


def bert(**options: Any) -> Any:
    """BERT with its masked-language head."""
    config = transformers.BertConfig(**{**_DECODER, **_BERT, **options})
    return _made(transformers.AutoModelForMaskedLM, config)


def t5(**options: Any) -> Any:
    """T5, encoder and decoder; gated as T5 1.1 unless said otherwise."""
    config = transformers.T5Config(**{**_T5, "feed_forward_proj": "gated-gelu", **options})
    return _made(transformers.AutoModelForSeq2SeqLM, config)


def _made(factory: Any, config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = factory.from_config(config)
    if model.can_generate():
        model.generation_config.pad_token_id = 0
    return model


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    """(rows, length) ids, none of them special."""
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def twins(make: Callable[[], Any]) -> tuple[Any, Any, Any]:
    """Three equal models: to be patched, plain, and plain in float64."""
    model = make()
    plain, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    for config in {id(m.config): m.config for m in exact.modules() if hasattr(m, "config")}.values():
        config.dtype = torch.float64
    if exact.config.model_type in ("mixtral", "qwen2_moe", "qwen3_moe"):
        exact.set_experts_implementation("eager")  # torch's grouped products know no float64
    if exact.config.model_type not in ("bert", "t5"):
        exact.loss_function = _causal_loss  # transformers' own rounds logits to float32
    return model, plain, exact


def _causal_loss(logits: Tensor, labels: Tensor, vocab_size: int, **_: Any) -> Tensor:
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].reshape(-1)
    )
