"""Bidirectional encoders: BERT and the sentence models made from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyllm.models.checks import (
    check_choices,
    check_counts,
    check_flags,
    check_positive,
    check_token_ids,
)
from pyllm.models.config import ACTIVATIONS, MAX_LAYERS
from pyllm.nn import MLP, Attention, LayerNorm, Linear


@dataclass(frozen=True)
class EncoderConfig:
    """Shapes and options of a post-norm encoder with learned positions (BERT, Devlin et al., 2018).

    Attributes:
        type_vocab_size: kinds of segments, each with an embedding of its own.
        hidden_act: "gelu" (erf), "gelu_tanh" or "silu".
        has_pooler: there is a layer for BERT's own vector of a text, see `Encoder.pooled`.
        bos_token_id, eos_token_ids, pad_token_id: as stored with the checkpoint; not used by the network.

    Raises:
        ValueError: a value that no model can have; names the field.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    has_pooler: bool = False
    initializer_range: float = 0.02
    model_type: str = "bert"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        check_counts(self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        check_counts(self, "num_attention_heads", "max_position_embeddings", "type_vocab_size")
        check_positive(self, "layer_norm_eps", "initializer_range")
        check_flags(self, "has_pooler")
        check_choices(self, hidden_act=ACTIVATIONS)
        check_token_ids(self)
        if self.num_hidden_layers > MAX_LAYERS:
            raise ValueError(f"num_hidden_layers must be at most {MAX_LAYERS}, got {self.num_hidden_layers}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads ({self.num_attention_heads}), "
                f"got {self.hidden_size}"
            )

    def num_parameters(self) -> int:
        """Numbers of the network."""
        width, inner = self.hidden_size, self.intermediate_size
        layer = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
        tables = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        return self.num_hidden_layers * layer + (tables + 2) * width + self.has_pooler * width * (width + 1)


class EncoderLayer(nn.Module):
    """norm(x + attention(x)), then norm(. + mlp(.))."""

    def __init__(
        self, config: EncoderConfig, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.self_attn = Attention(
            width,
            heads,
            heads,
            width // heads,
            bias=True,
            output_bias=True,
            is_causal=False,
            device=device,
            dtype=dtype,
        )
        self.self_attn_norm = _norm(config, device, dtype)
        self.mlp = MLP(
            width, config.intermediate_size, activation=config.hidden_act, device=device, dtype=dtype
        )
        self.mlp_norm = _norm(config, device, dtype)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        x, _ = self.self_attn_norm(self.self_attn(x, None, None, kv_lengths=lengths), x)
        x, _ = self.mlp_norm(self.mlp(x), x)
        return x


class Encoder(nn.Module):
    """A bidirectional encoder: token ids -> one vector per token, or one per text.

    State-dict names: embed_tokens, embed_positions, embed_token_types, embed_norm, and layers.N.{self_attn,
    self_attn_norm, mlp, mlp_norm}, and pooler where there is one; heads of BERT's training are not part of it.
    """

    is_quantized = False

    def __init__(
        self,
        config: EncoderConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embed_tokens = _table(config.vocab_size, config, device, dtype)
        self.embed_positions = _table(config.max_position_embeddings, config, device, dtype)
        self.embed_token_types = _table(config.type_vocab_size, config, device, dtype)
        self.embed_norm = _norm(config, device, dtype)
        self.layers = nn.ModuleList(
            EncoderLayer(config, device, dtype) for _ in range(config.num_hidden_layers)
        )

        self.pooler = Linear(width, width, True, device, dtype) if config.has_pooler else None

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embed_norm.weight.device

    def forward(
        self,
        input_ids: Tensor,
        *,
        input_lengths: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (batch, tokens, hidden_size); what stands at padding means nothing.

        Args:
            input_ids: (batch, tokens) integers in [0, vocab_size), at most `max_position_embeddings` tokens.
            input_lengths: (batch,) real tokens of each row, the rest is padding on the right.
            token_type_ids: (batch, tokens) segments, all 0 if None.

        Raises:
            ValueError, IndexError: shapes, lengths or ids that do not fit.
        """
        self._check(input_ids, input_lengths)
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.embed_tokens(input_ids) + self.embed_token_types(kinds)
        x = self.embed_norm(x + self.embed_positions.weight[: input_ids.shape[1]])
        for layer in self.layers:
            x = layer(x, input_lengths)
        return x

    def pooled(self, hidden: Tensor) -> Tensor:
        """BERT's own vector of a text, (batch, hidden_size), from hidden states: tanh of a layer over the first token.

        Raises:
            ValueError: the model has no pooler.
        """
        if self.pooler is None:
            raise ValueError("the model has no pooler (EncoderConfig.has_pooler is False)")
        return torch.tanh(self.pooler(hidden[:, 0]))

    def embed(self, input_ids: Tensor, input_lengths: Tensor, *, normalize: bool = True) -> Tensor:
        """One vector per text, (batch, hidden_size): the mean of its tokens' vectors, scaled to length one.

        That is sentence-transformers' mean pooling and normalization. Arguments as in `forward`.
        """
        hidden = self(input_ids, input_lengths=input_lengths)
        real = torch.arange(input_ids.shape[1], device=input_ids.device) < input_lengths[:, None]
        mean = torch.where(real[..., None], hidden, 0.0).sum(1) / input_lengths[:, None]
        return nn.functional.normalize(mean, dim=-1) if normalize else mean

    def _check(self, input_ids: Tensor, input_lengths: Tensor | None) -> None:
        if input_ids.dim() != 2 or not 1 <= input_ids.shape[1] <= self.config.max_position_embeddings:
            raise ValueError(
                f"input_ids must have shape (batch, tokens) with 1 to {self.config.max_position_embeddings} tokens, "
                f"got {tuple(input_ids.shape)}"
            )
        low, high = (int(bound) for bound in torch.aminmax(input_ids))
        if low < 0 or high >= self.config.vocab_size:
            raise IndexError(f"input_ids must lie in [0, {self.config.vocab_size}), got {low} to {high}")
        if input_lengths is None:
            return
        tokens = input_ids.shape[1]
        if input_lengths.shape != input_ids.shape[:1] or bool(
            ((input_lengths < 1) | (input_lengths > tokens)).any()
        ):
            raise ValueError(
                f"input_lengths must be {input_ids.shape[0]} numbers in [1, {tokens}], got {input_lengths.tolist()}"
            )


def _norm(config: EncoderConfig, device: torch.device | str | None, dtype: torch.dtype | None) -> LayerNorm:
    return LayerNorm(config.hidden_size, config.layer_norm_eps, device=device, dtype=dtype)


def _table(
    rows: int, config: EncoderConfig, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Embedding:
    table = torch.empty((rows, config.hidden_size), device=device, dtype=dtype)
    # Drawing on the meta device would import torch's compiler for nothing.
    if not table.is_meta:
        table.normal_(0.0, config.initializer_range)
    return nn.Embedding(rows, config.hidden_size, _weight=table)
