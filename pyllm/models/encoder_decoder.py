"""Encoder-decoders with relative position biases: T5 (Raffel et al., 2019), versions 1.0 and 1.1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyllm import ops
from pyllm.models.checks import check_choices, check_counts, check_flags, check_positive, check_token_ids
from pyllm.models.config import MAX_LAYERS
from pyllm.models.kv_cache import KVCache
from pyllm.nn import Attention, GatedMLP, Linear, RMSNorm
from pyllm.nn.functional import attend

ACTIVATIONS = ("relu", "silu", "gelu", "gelu_tanh")
_Place = dict[str, Any]


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Shapes and options of a T5.

    Attributes:
        num_hidden_layers: of the decoder; `num_encoder_layers`: of the encoder.
        relative_buckets, relative_max_distance: distances between tokens fall into so many classes, exact ones first,
            then logarithmic ones up to the largest; each head has a bias per class.
        gated_mlp: down(act(gate) * up), T5 1.1, otherwise down(act(up)), T5 1.0; `hidden_act`: "relu" (not gated),
            "silu", "gelu" or "gelu_tanh" (gated).
        logit_scale: hidden states are multiplied by it before the head; T5 1.0's is 1 / sqrt(hidden_size).
        decoder_start_token_id: what the decoder's text begins with.
        max_position_embeddings: most tokens of a text; the network itself has no limit.

    Raises:
        ValueError: a value that no model can have; names the field.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_encoder_layers: int
    num_attention_heads: int
    head_dim: int
    relative_buckets: int = 32
    relative_max_distance: int = 128
    rms_norm_eps: float = 1e-6
    gated_mlp: bool = False
    hidden_act: str = "relu"
    logit_scale: float = 1.0
    tie_word_embeddings: bool = True
    decoder_start_token_id: int = 0
    max_position_embeddings: int = 512
    model_type: str = "t5"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = (1,)
    pad_token_id: int | None = 0
    prefix_decoder: bool = False

    def __post_init__(self) -> None:
        check_counts(self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        check_counts(self, "num_encoder_layers", "num_attention_heads", "head_dim", "max_position_embeddings")
        check_counts(self, "relative_buckets", "relative_max_distance")
        check_positive(self, "rms_norm_eps", "logit_scale")
        check_flags(self, "gated_mlp", "tie_word_embeddings", "prefix_decoder")
        check_choices(self, hidden_act=ACTIVATIONS)
        check_token_ids(self)
        if self.gated_mlp == (self.hidden_act == "relu"):
            raise ValueError(
                f"hidden_act must be 'relu' without gates and another with them, got {self.hidden_act!r}"
            )
        if max(self.num_hidden_layers, self.num_encoder_layers) > MAX_LAYERS:
            raise ValueError(f"num_hidden_layers must be at most {MAX_LAYERS}")
        if self.relative_buckets % 4 or self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError(
                "relative_buckets must be a multiple of 4, relative_max_distance above half of it, "
                f"got {self.relative_buckets} and {self.relative_max_distance}"
            )
        if self.prefix_decoder:
            raise ValueError("prefix_decoder must be False: the encoder reads the prompt in both directions")

    @property
    def num_key_value_heads(self) -> int:
        return self.num_attention_heads

    def num_parameters(self) -> int:
        """Numbers of the network."""
        width, heads = self.hidden_size, self.num_attention_heads
        attention = 4 * width * heads * self.head_dim + width
        mlp = (3 if self.gated_mlp else 2) * width * self.intermediate_size + width
        layers = self.num_encoder_layers * (attention + mlp) + self.num_hidden_layers * (2 * attention + mlp)
        tables = (1 if self.tie_word_embeddings else 2) * self.vocab_size * width
        return layers + tables + 2 * (self.relative_buckets * heads + width)


class RelativeBias(nn.Module):
    """A learned bias per head and class of distance; `is_causal`: keys are never later than queries."""

    def __init__(self, config: EncoderDecoderConfig, is_causal: bool, place: _Place) -> None:
        super().__init__()
        shape = (config.relative_buckets, config.num_attention_heads)
        self.weight = nn.Parameter(torch.empty(shape, **place))
        self.largest, self.is_causal = config.relative_max_distance, is_causal

    def forward(self, queries: Tensor, keys: int) -> Tensor:
        """(1, heads, queries, keys), from the positions of the queries (n,) to all keys."""
        distances = torch.arange(keys, device=queries.device) - queries[:, None]
        return self.weight[self._classes(distances)].permute(2, 0, 1)[None]

    def _classes(self, distances: Tensor) -> Tensor:
        count = self.weight.shape[0]
        if self.is_causal:
            first, far = torch.zeros_like(distances), (-distances).clamp(min=0)
        else:
            count //= 2
            first, far = (distances > 0) * count, distances.abs()
        exact = count // 2
        # In float32 and in this order, as the models were trained: borders fall where rounding puts them.
        ratio = torch.log(far.clamp(min=1).float() / exact) / math.log(self.largest / exact)
        logarithmic = (exact + (ratio * (count - exact)).long()).clamp(max=count - 1)
        return first + torch.where(far < exact, far, logarithmic)


class CrossAttention(nn.Module):
    """Attention from the decoder to the encoder's hidden states, whose keys and values are made once."""

    def __init__(self, config: EncoderDecoderConfig, place: _Place) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj, self.k_proj, self.v_proj = (Linear(width, inner, False, **place) for _ in range(3))
        self.o_proj = Linear(inner, width, False, **place)

    def memory(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (batch, heads, tokens, head_dim)."""
        return self._heads(self.k_proj(encoded)), self._heads(self.v_proj(encoded))

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], lengths: Tensor | None) -> Tensor:
        y = attend(self._heads(self.q_proj(x)), *memory, scale=1.0, kv_lengths=lengths)
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class ReluMLP(nn.Module):
    """down(relu(up(x)))."""

    def __init__(self, config: EncoderDecoderConfig, place: _Place) -> None:
        super().__init__()
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, False, **place)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, False, **place)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.relu(self.up_proj(x)))


class Layer(nn.Module):
    """Pre-norm block: self-attention, in a decoder attention to the encoder, MLP."""

    def __init__(self, config: EncoderDecoderConfig, is_decoder: bool, place: _Place) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.self_attn = Attention(
            width, heads, heads, config.head_dim, is_causal=is_decoder, scale=1.0, **place
        )
        self.input_layernorm = RMSNorm(width, config.rms_norm_eps, **place)
        self.cross_attn = self.cross_attn_layernorm = None
        if is_decoder:
            self.cross_attn = CrossAttention(config, place)
            self.cross_attn_layernorm = RMSNorm(width, config.rms_norm_eps, **place)
        self.post_attention_layernorm = RMSNorm(width, config.rms_norm_eps, **place)
        self.mlp = (
            GatedMLP(width, config.intermediate_size, activation=config.hidden_act, **place)
            if config.gated_mlp
            else ReluMLP(config, place)
        )

    def forward(self, x: Tensor, bias: Tensor, *, memory: Any = None, **options: Any) -> Tensor:
        """`memory`: (keys, values) and lengths of the encoder's text; options as in `pyllm.nn.Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), None, None, position_bias=bias, **options)
        if self.cross_attn is not None and self.cross_attn_layernorm is not None:
            x = x + self.cross_attn(self.cross_attn_layernorm(x), *memory)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stack(nn.Module):
    """The layers of an encoder or a decoder, their position bias and their last norm."""

    def __init__(self, config: EncoderDecoderConfig, layers: int, is_decoder: bool, place: _Place) -> None:
        super().__init__()
        self.relative_bias = RelativeBias(config, is_decoder, place)
        self.layers = nn.ModuleList(Layer(config, is_decoder, place) for _ in range(layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, **place)


class EncoderDecoderCache:
    """What a batch of texts needs to go on: the encoder's keys and values, and those of the decoder so far.

    The rows' decoder texts have one length. `select` as in `KVCache`.
    """

    def __init__(self, decoder: KVCache) -> None:
        self.decoder = decoder
        self.memory: list[tuple[Tensor, Tensor]] = []
        self.lengths: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return self.decoder.batch_size

    def select(self, rows: Tensor) -> None:
        """Keep copies of `rows` (n,) int64, in that order."""
        self.decoder.select(rows)
        self.memory = [(keys[rows], values[rows]) for keys, values in self.memory]
        self.lengths = None if self.lengths is None else self.lengths[rows]


class EncoderDecoder(nn.Module):
    """A T5: (batch, tokens) ids of a source and of a target text -> logits of what follows each target token.

    State-dict names: embed_tokens, {encoder, decoder}.{relative_bias, norm} and .layers.N.{input_layernorm, self_attn,
    post_attention_layernorm, mlp}, in the decoder also cross_attn and cross_attn_layernorm; lm_head where it is not
    tied. Training runs operator by operator.
    """

    is_quantized = False
    logit_softcap = None

    def __init__(
        self,
        config: EncoderDecoderConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: _Place = {"device": device, "dtype": dtype}
        self.config = config
        shape = (config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding(*shape, _weight=torch.empty(shape, **place))
        self.encoder = Stack(config, config.num_encoder_layers, False, place)
        self.decoder = Stack(config, config.num_hidden_layers, True, place)
        self.lm_head = None if config.tie_word_embeddings else Linear(shape[1], shape[0], False, **place)
        if not self.embed_tokens.weight.is_meta:
            for name, parameter in self.named_parameters():
                if not name.endswith("norm.weight"):
                    nn.init.normal_(parameter, 0.0, config.hidden_size**-0.5)

    @property
    def lm_head_weight(self) -> Tensor:
        """(vocab_size, hidden_size)."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.decoder.norm.weight.device

    def encode(self, input_ids: Tensor, input_lengths: Tensor | None = None) -> Tensor:
        """Hidden states (batch, tokens, hidden_size) of the source; tokens past `input_lengths` are padding."""
        _check_ids("input_ids", input_ids, self.config.vocab_size)
        x, stack = self.embed_tokens(input_ids), self.encoder
        tokens = input_ids.shape[1]
        bias = stack.relative_bias(torch.arange(tokens, device=x.device), tokens)
        for layer in stack.layers:
            x = layer(x, bias, kv_lengths=input_lengths)
        return stack.norm(x)

    def forward(
        self, input_ids: Tensor, decoder_input_ids: Tensor, *, input_lengths: Tensor | None = None
    ) -> Tensor:
        """Logits (batch, target tokens, vocab_size).

        Args:
            input_ids: (batch, tokens) source. decoder_input_ids: (batch, target tokens), the first of them
                `config.decoder_start_token_id`. input_lengths: (batch,) real tokens of each source row.

        Raises:
            ValueError, IndexError: shapes or ids that do not fit.
        """
        encoded = self.encode(input_ids, input_lengths)
        memory = self._memory(encoded)
        hidden = self._decode(decoder_input_ids, memory, input_lengths, None)
        return ops.linear(hidden, self.lm_head_weight)

    def new_cache(self, batch_size: int, *, capacity: int = 256) -> EncoderDecoderCache:
        """An empty cache; `capacity` counts target tokens that fit before it grows."""
        cache = KVCache(self.config, batch_size, capacity=capacity, dtype=self.dtype, device=self.device)
        return EncoderDecoderCache(cache)

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        kv_cache: EncoderDecoderCache,
        input_lengths: Tensor | None = None,
        last_token_only: bool = True,
    ) -> Tensor:
        """What the head reads after the newest target token, (batch, hidden_size): a step of generation.

        The first call with a cache takes the source texts, padded on the right to `input_lengths`, and starts the
        target; later ones take the new target tokens (batch, 1).
        """
        if not kv_cache.memory:
            encoded = self.encode(input_ids, input_lengths)
            kv_cache.memory = self._memory(encoded)
            kv_cache.lengths = input_lengths
            input_ids = input_ids.new_full((input_ids.shape[0], 1), self.config.decoder_start_token_id)
        hidden = self._decode(input_ids, kv_cache.memory, kv_cache.lengths, kv_cache.decoder)
        return hidden[:, -1] if last_token_only else hidden

    def _memory(self, encoded: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The encoder's keys and values for each layer of the decoder."""
        layers: Any = self.decoder.layers
        return [layer.cross_attn.memory(encoded) for layer in layers]

    def _decode(
        self,
        ids: Tensor,
        memory: list[tuple[Tensor, Tensor]],
        lengths: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        _check_ids("decoder_input_ids", ids, self.config.vocab_size)
        x, stack, before = self.embed_tokens(ids), self.decoder, 0
        if cache is not None:
            before = cache.longest
            cache.begin(ids.shape[1])
        keys = before + ids.shape[1]
        bias = stack.relative_bias(torch.arange(before, keys, device=x.device), keys)
        for index, layer in enumerate(stack.layers):
            past = None if cache is None else cache.layer(index)
            x = layer(x, bias, memory=(memory[index], lengths), cache=past)
        if cache is not None:
            cache.advance()
        return stack.norm(x) * self.config.logit_scale


def _check_ids(name: str, ids: Tensor, vocab_size: int) -> None:
    if ids.dim() != 2 or not ids.numel():
        raise ValueError(f"{name} must have shape (batch, tokens), not empty, got {tuple(ids.shape)}")
    low, high = (int(bound) for bound in torch.aminmax(ids))
    if low < 0 or high >= vocab_size:
        raise IndexError(f"{name} must lie in [0, {vocab_size}), got {low if low < 0 else high}")
