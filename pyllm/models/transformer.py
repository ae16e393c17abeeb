"""The decoder-only transformer that a `ModelConfig` describes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pyllm import ops
from pyllm.models.config import ModelConfig
from pyllm.models.kv_cache import KVCache
from pyllm.models.layers import DecoderLayer, Places, hidden_norm
from pyllm.models.packing import document_layout
from pyllm.models.rope import rotary_embedding
from pyllm.nn import Linear
from pyllm.nn.mixture_of_experts import QuantizedExpertLinear
from pyllm.nn.quantized import QuantizedEmbedding, QuantizedLinear

ACTIVATION_CHECKPOINTING = ("none", "selective", "full")
_QUANTIZED = (QuantizedLinear, QuantizedEmbedding, QuantizedExpertLinear)


class Decoder(nn.Module):
    """Embeddings, the layers, the last norm: (batch, tokens) ids -> (batch, tokens, hidden_size)."""

    def __init__(
        self, config: ModelConfig, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        shape = (config.vocab_size, config.hidden_size)
        # Drawing on the meta device would import torch's compiler for nothing.
        table = torch.empty(shape, device=device, dtype=dtype) if device == "meta" else None
        self.embed_tokens = nn.Embedding(*shape, _weight=table, device=device, dtype=dtype)
        self.embedding_scale = config.embedding_scale
        self.embed_positions = self.rotary = self.local_rotary = None
        if config.position_embedding == "learned":
            self.embed_positions = nn.Embedding(
                config.max_position_embeddings, config.hidden_size, device=device, dtype=dtype
            )
        else:
            limit = config.max_position_embeddings
            self.rotary = rotary_embedding(config.rotated, config.rope_theta, config.rope_scaling, limit)
            if config.local_rope_theta is not None:
                self.local_rotary = rotary_embedding(config.rotated, config.local_rope_theta, None, limit)
        self.layers = nn.ModuleList(
            DecoderLayer(config, index, device, dtype) for index in range(config.num_hidden_layers)
        )
        self.norm = hidden_norm(config, device, dtype)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        max_position: int,
        cu_seqlens: Tensor | None,
        prefix_lengths: Tensor | None,
        kv_cache: KVCache | None,
        checkpointing: str,
    ) -> Tensor:
        x, residual = self.embed(input_ids, position_ids, max_position), None
        angles, local_angles = self.angles(max_position, input_ids.device)
        for index, layer in enumerate(self.layers):
            cache = None if kv_cache is None else kv_cache.layer(index)
            cos, sin = local_angles if layer.is_windowed else angles
            places = Places(cos, sin, position_ids, cu_seqlens, prefix_lengths)
            x, residual = layer(x, residual, places, cache, checkpointing)
        hidden, _ = self.norm(x, residual)
        return hidden

    def embed(self, input_ids: Tensor, position_ids: Tensor | None, max_position: int) -> Tensor:
        """What the first layer reads, (batch, tokens, hidden_size)."""
        x: Tensor = self.embed_tokens(input_ids)
        if self.embedding_scale != 1.0:
            # Rounded to the dtype first, as the models were trained.
            x = x * torch.tensor(self.embedding_scale, dtype=x.dtype)
        if self.embed_positions is not None:
            x = x + _positions(self.embed_positions, input_ids, position_ids, max_position)
        return x

    def angles(self, length: int, device: torch.device) -> tuple[Any, Any]:
        """RoPE's cos and sin for positions below `length`, and those of layers with a window; (None, None) without."""
        if self.rotary is None:
            return (None, None), (None, None)
        angles = self.rotary(length, device)
        return angles, angles if self.local_rotary is None else self.local_rotary(length, device)


def _positions(
    table: nn.Embedding, input_ids: Tensor, position_ids: Tensor | None, max_position: int
) -> Tensor:
    """Learned positions (batch or 1, tokens, hidden_size) of the tokens."""
    if max_position > table.num_embeddings:
        raise ValueError(
            f"position_ids reach {max_position - 1}, but the model has {table.num_embeddings} positions"
        )
    return table.weight[None, : input_ids.shape[1]] if position_ids is None else table(position_ids)


class Transformer(nn.Module):
    """A causal language model: `ModelConfig` -> network, with Hugging Face's state-dict names.

    `model.embed_tokens`, `model.layers.N.{input_layernorm, self_attn, post_attention_layernorm, mlp}`,
    `model.norm` and, where the embedding is not tied, `lm_head`. A tied head has no entry of its own. A network with
    learned positions has `model.embed_positions`, one with norms on both sides of attention and MLP also
    `pre_feedforward_layernorm` and `post_feedforward_layernorm` in each layer, a parallel block `input_layernorm`
    alone, a mixture of experts `mlp.gate` and `mlp.experts.{gate,up,down}_proj`, see `pyllm.nn.MixtureOfExpertsMLP`.

    New weights are drawn as in GPT-2 and LLaMA: normal with `config.initializer_range`, the two projections
    that write to the residual stream divided by sqrt(2 * layers), biases zero, norms one. They use torch's
    global generator: seed it for the same weights.

    Args:
        activation_checkpointing: what a training step makes again in its backward instead of keeping it: "none";
            "selective": the projections of the MLPs; "full": attention too, so that of each half of a layer its
            input alone is kept. The bits are the same. Also an attribute, which may be set at any time.

    Raises:
        ValueError: an unknown kind of activation checkpointing.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        activation_checkpointing: str = "none",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.activation_checkpointing = config, activation_checkpointing
        self.model = Decoder(config, device, dtype)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, False, device, dtype)
        if not self.model.embed_tokens.weight.is_meta:
            self.init_weights()

    @property
    def activation_checkpointing(self) -> str:
        """ "none", "selective" or "full", see the class."""
        return self._activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, kind: str) -> None:
        if kind not in ACTIVATION_CHECKPOINTING:
            raise ValueError(
                f"activation_checkpointing must be one of {ACTIVATION_CHECKPOINTING}, got {kind!r}"
            )
        self._activation_checkpointing = kind

    @property
    def lm_head_weight(self) -> Any:
        """(vocab_size, hidden_size): hidden states times its transpose are the logits. A tensor, or a `QuantizedTensor`
        where the head was loaded quantized.
        """
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    @property
    def logit_softcap(self) -> float | None:
        """Logits are softcap * tanh(product / softcap) of hidden states and head."""
        return self.config.logit_softcap

    @property
    def dtype(self) -> torch.dtype:
        """Of activations, and of weights that are not quantized."""
        return self.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device

    @property
    def is_quantized(self) -> bool:
        """Whether some weights are quantized; those are frozen."""
        return any(isinstance(module, _QUANTIZED) for module in self.modules())

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw all weights anew, see the class."""
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name.endswith("norm.weight"):
                parameter.fill_(1.0 - self.config.norm_weight_offset)
            else:
                writes_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = math.sqrt(2 * self.config.num_hidden_layers) if writes_residual else 1.0
                parameter.normal_(0.0, std / scale)

    def new_cache(self, batch_size: int, *, capacity: int = 256) -> KVCache:
        """An empty cache that fits this network's shapes, dtype and device."""
        return KVCache(self.config, batch_size, capacity=capacity, dtype=self.dtype, device=self.device)

    def forward(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        prefix_lengths: Tensor | None = None,
        kv_cache: KVCache | None = None,
        input_lengths: Tensor | None = None,
        last_token_only: bool = False,
    ) -> Tensor:
        """Logits (batch, tokens, vocab_size), or (batch, vocab_size) with `last_token_only`, in the network's dtype.

        Arguments as in `hidden_states`.
        """
        hidden = self.hidden_states(
            input_ids,
            position_ids=position_ids,
            document_ids=document_ids,
            prefix_lengths=prefix_lengths,
            kv_cache=kv_cache,
            input_lengths=input_lengths,
            last_token_only=last_token_only,
        )
        weight = self.lm_head_weight
        product = ops.quantized_linear if isinstance(weight, ops.QuantizedTensor) else ops.linear
        logits, cap = product(hidden, weight), self.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        prefix_lengths: Tensor | None = None,
        kv_cache: KVCache | None = None,
        input_lengths: Tensor | None = None,
        last_token_only: bool = False,
    ) -> Tensor:
        """What the head reads: (batch, tokens, hidden_size), after the last norm, times `config.logit_scale`.

        Training takes this, `lm_head_weight` and `logit_softcap` to `pyllm.ops.linear_cross_entropy`, so that the
        logits are never held whole.

        Args:
            input_ids: (batch, tokens) integers in [0, vocab_size).
            position_ids: (batch, tokens) positions for RoPE. Default: from 0, from the start of each
                document, or from the end of the cached row.
            document_ids: (batch, tokens) integers, one value per stretch of tokens that belong together;
                attention never leaves a stretch. Not together with `kv_cache`.
            prefix_lengths: (batch,) integers, or one per document with `document_ids`; the first so many tokens
                of the row or document are visible to all of it, later ones to those behind them only (a prefix
                decoder). With `kv_cache` a prefix must come in one call, the first.
            kv_cache: tokens seen before, one row per row of the batch; the new ones are added.
            input_lengths: (batch,) real tokens of each row, the rest is padding on the right. Only needed
                with `kv_cache` or `last_token_only`: causal attention keeps padding on the right out of
                sight anyway.
            last_token_only: (batch, hidden_size) of each row's last real token only.

        Raises:
            ValueError, TypeError, IndexError: an argument of the wrong shape, dtype or range.
        """
        _check_ids(input_ids, self.config.vocab_size)
        _check_companions(input_ids, position_ids, document_ids, input_lengths)
        if kv_cache is not None:
            _check_cache(input_ids, kv_cache, document_ids)
        tokens = input_ids.shape[1]
        max_position, defaults, cu_seqlens = tokens, None, None
        if kv_cache is not None:
            defaults, max_position = kv_cache.begin(tokens), kv_cache.longest + tokens
        elif document_ids is not None:
            cu_seqlens, defaults = document_layout(document_ids)
        if position_ids is None:
            position_ids = defaults
        elif position_ids.numel():
            max_position = int(position_ids.max()) + 1
        _check_prefix(prefix_lengths, input_ids.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1)
        hidden = self.model(
            input_ids,
            position_ids,
            max_position,
            cu_seqlens,
            prefix_lengths,
            kv_cache,
            self.activation_checkpointing,
        )
        if self.config.logit_scale != 1.0:
            hidden = hidden * self.config.logit_scale
        if kv_cache is not None:
            kv_cache.advance(input_lengths)
        return _last_tokens(hidden, input_lengths) if last_token_only else hidden


def _last_tokens(hidden: Tensor, input_lengths: Tensor | None) -> Tensor:
    if input_lengths is None:
        return hidden[:, -1]
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, input_lengths.to(rows) - 1]


def _check_ids(input_ids: Tensor, vocab_size: int) -> None:
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must have shape (batch, tokens), got {tuple(input_ids.shape)}")
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"input_ids must be int64 or int32, got {input_ids.dtype}")
    # Elsewhere the look would wait for the device (or break the graph); the embedding itself checks there.
    if input_ids.device.type == "cpu" and not torch.compiler.is_compiling() and input_ids.numel():
        low, high = (int(bound) for bound in torch.aminmax(input_ids))
        if low < 0 or high >= vocab_size:
            raise IndexError(f"input_ids must lie in [0, {vocab_size}), got {low if low < 0 else high}")


def _check_companions(
    input_ids: Tensor, position_ids: Tensor | None, document_ids: Tensor | None, input_lengths: Tensor | None
) -> None:
    for name, tensor in (("position_ids", position_ids), ("document_ids", document_ids)):
        if tensor is not None and tensor.shape != input_ids.shape:
            raise ValueError(
                f"{name} must have the shape of input_ids {tuple(input_ids.shape)}, got {tuple(tensor.shape)}"
            )
    if input_lengths is None:
        return
    batch, tokens = input_ids.shape
    if input_lengths.shape != (batch,):
        raise ValueError(f"input_lengths must have shape ({batch},), got {tuple(input_lengths.shape)}")
    if bool(((input_lengths < 1) | (input_lengths > tokens)).any()):
        raise ValueError(f"input_lengths must lie in [1, {tokens}], got {input_lengths.tolist()}")


def _check_prefix(prefix_lengths: Tensor | None, texts: int) -> None:
    if prefix_lengths is not None and prefix_lengths.shape != (texts,):
        raise ValueError(f"prefix_lengths must have shape ({texts},), got {tuple(prefix_lengths.shape)}")


def _check_cache(input_ids: Tensor, kv_cache: KVCache, document_ids: Tensor | None) -> None:
    if document_ids is not None:
        raise ValueError("document_ids and kv_cache exclude each other: a cache holds one text per row")
    if kv_cache.batch_size != input_ids.shape[0]:
        raise ValueError(f"kv_cache has {kv_cache.batch_size} rows, input_ids {input_ids.shape[0]}")
