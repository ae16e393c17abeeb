"""One training step of each contender: model, loss, backward and AdamW on one batch, everything at its defaults' best.

All share shapes, batch and learning rate. Rivals are transformers' models with scaled_dot_product_attention and torch's
fused AdamW; "patched" is the same after `pyllm.patch(model)`, "linear" with linear=True. The precisions:

    fp32       everything in float32
    autocast   float32 weights and moments, products in bfloat16 under torch.autocast
    bf16       bfloat16 weights; pyllm's AdamW keeps float32 master weights and moments beside them, torch's
               keeps bfloat16 moments alone (less memory, coarser updates)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

import pyllm
from pyllm import ops
from pyllm.models import ModelConfig, Transformer, gpt2_config, preset
from pyllm.optim import AdamW

OURS, EAGER, COMPILED = "pyllm", "transformers", "transformers compiled"
PATCHED, PATCHED_LINEAR = "transformers patched", "transformers patched, linear"
CONTENDERS = (OURS, EAGER, COMPILED, PATCHED, PATCHED_LINEAR)
PRECISIONS = ("fp32", "autocast", "bf16")
_OPTIONS: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}

Step = Callable[[], float]


@dataclass(frozen=True)
class Shape:
    """A model and the batch it is trained on: `rows` times `tokens`."""

    config: ModelConfig
    rows: int
    tokens: int

    def ids(self) -> torch.Tensor:
        """Random token ids (rows, tokens + 1), the same for every contender."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.config.vocab_size, (self.rows, self.tokens + 1), generator=generator)


SHAPES = {
    "smollm2-135m": Shape(preset("smollm2-135m"), 4, 512),
    # 30 M parameters, 19 M of them in the embedding.
    "gpt2-30m": Shape(gpt2_config(50257, 384, 6, 6), 8, 256),
}


def shape_of(name: str, layers: int | None = None) -> Shape:
    """A shape by name, with another number of layers where one is given."""
    shape = SHAPES[name]
    return shape if layers is None else replace(shape, config=replace(shape.config, num_hidden_layers=layers))


def make_step(contender: str, shape: Shape, precision: str, checkpointing: str = "none") -> Step:
    """A call that makes one step and returns its loss."""
    torch.manual_seed(0)
    if contender == OURS:
        return _our_step(shape, precision, checkpointing)
    return _their_step(shape, precision, contender)


def make_step_of(name: str, layers: int | None, contender: str, precision: str, checkpointing: str) -> Step:
    """`make_step` by the shape's name, for a process of its own."""
    return make_step(contender, shape_of(name, layers), precision, checkpointing)


def _our_step(shape: Shape, precision: str, checkpointing: str) -> Step:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = Transformer(shape.config, activation_checkpointing=checkpointing, dtype=dtype)
    optimizer = AdamW(model.parameters(), **_OPTIONS)
    ids = shape.ids()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            hidden = model.hidden_states(ids[:, :-1])
            loss = ops.linear_cross_entropy(hidden, model.lm_head_weight, ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def _their_step(shape: Shape, precision: str, contender: str) -> Step:
    model = _transformers_model(shape.config).train()
    model = model.to(torch.bfloat16) if precision == "bf16" else model
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **_OPTIONS)
    if contender in (PATCHED, PATCHED_LINEAR):
        pyllm.patch(model, linear=contender == PATCHED_LINEAR)
    forward = torch.compile(model) if contender == COMPILED else model
    inputs = shape.ids()[:, :-1].contiguous()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            loss = forward(input_ids=inputs, labels=inputs, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def _transformers_model(config: ModelConfig) -> Any:
    """The same architecture by transformers, random weights."""
    import transformers

    attention: dict[str, Any] = {"attn_implementation": "sdpa"}
    if config.model_type == "gpt2":
        gpt2 = transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_position_embeddings,
            n_embd=config.hidden_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            n_inner=config.intermediate_size,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **attention,
        )
        return transformers.GPT2LMHeadModel(gpt2)
    llama = transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings,
        **attention,
    )
    return transformers.LlamaForCausalLM(llama)
