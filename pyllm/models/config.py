"""What a decoder-only transformer is made of, as data: shapes, options and presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

ROPE_SCALING_KINDS = ("linear", "llama3")
NORMS = ("rms_norm", "layer_norm")
POSITION_EMBEDDINGS = ("rope", "learned")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")
# Far above any real model; keeps a hostile config.json from building lists without end.
MAX_LAYERS = 4096


def _check_counts(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name} must be a positive number, got {value!r}")


def _check_flags(config: object, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name} must be True or False, got {getattr(config, name)!r}")


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    Attributes:
        kind: "linear" (position interpolation, arXiv 2306.15595) or "llama3" (by wavelength, Llama 3.1).
        factor: low frequencies are divided by it.
        low_freq_factor, high_freq_factor, original_max_position_embeddings: "llama3" only; wavelengths above
            original / low are stretched in full, those below original / high are left alone.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        if self.kind not in ROPE_SCALING_KINDS:
            raise ValueError(
                f"rope scaling {self.kind!r} is not supported, expected one of {ROPE_SCALING_KINDS}"
            )
        _check_positive(self, "factor", "low_freq_factor", "high_freq_factor")
        _check_counts(self, "original_max_position_embeddings")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor must exceed low_freq_factor ({self.low_freq_factor}), "
                f"got {self.high_freq_factor}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and options of a pre-norm decoder, by default with grouped-query attention, RoPE and SwiGLU.

    Names are Hugging Face's. The defaults of the options describe LLaMA; Mistral, Qwen 2 and Qwen 3 differ in
    `sliding_window`, the biases and `qk_norm`; Gemma 3 also in `norm_weight_offset`, `sandwich_norms`,
    `embedding_scale`, `local_rope_theta` and `hidden_act`; GPT-2 in `norm`, `position_embedding`, `gated_mlp` and
    `hidden_act`, see `gpt2_config`.

    Attributes:
        model_type: family name used when the model is saved: "llama", "mistral", "qwen2", "qwen3" or "gemma3". A
            "gpt2" can be trained and used, not yet saved as a Hugging Face folder.
        head_dim: hidden_size / num_attention_heads where None is given.
        num_key_value_heads: num_attention_heads where None is given.
        attention_bias: query, key and value projections have a bias; `attention_output_bias`: the output
            projection has one; `mlp_bias`: the three projections of the MLP have one.
        qk_norm: RMSNorm over each head of query and key before RoPE.
        norm: "rms_norm" or "layer_norm", with `rms_norm_eps` either way; `norm_bias`: LayerNorm has a bias.
        norm_weight_offset: RMSNorms multiply by weight + this; Gemma's is 1.
        sandwich_norms: attention's and the MLP's outputs are normalized too, before they join the residual stream.
        embedding_scale: embeddings are multiplied by it; Gemma's is sqrt(hidden_size).
        local_rope_theta: the base of RoPE, without scaling, in layers with a sliding window; None: as in the others.
        position_embedding: "rope", or "learned": a table of `max_position_embeddings` rows added to the input.
        gated_mlp: down(act(gate) * up), otherwise down(act(up)); `hidden_act`: "silu", "gelu" or "gelu_tanh".
        sliding_window: a query sees itself and the `sliding_window - 1` keys before it, in the layers whose
            `layer_types` entry is "sliding_attention" (all layers where `layer_types` is None).
        bos_token_id, eos_token_ids, pad_token_id: as stored with the checkpoint; not used by the network.

    Raises:
        ValueError: a value that no model can have; names the field.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int = None  # type: ignore[assignment]
    head_dim: int = None  # type: ignore[assignment]
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norm: str = "rms_norm"
    norm_bias: bool = False
    norm_weight_offset: float = 0.0
    sandwich_norms: bool = False
    embedding_scale: float = 1.0
    local_rope_theta: float | None = None
    position_embedding: str = "rope"
    gated_mlp: bool = True
    hidden_act: str = "silu"
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None
    initializer_range: float = 0.02
    model_type: str = "llama"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        _check_counts(self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        _check_counts(self, "num_attention_heads", "max_position_embeddings")
        if self.num_hidden_layers > MAX_LAYERS:
            raise ValueError(f"num_hidden_layers must be at most {MAX_LAYERS}, got {self.num_hidden_layers}")
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self._default_head_dim())
        _check_counts(self, "num_key_value_heads", "head_dim")
        _check_positive(self, "rms_norm_eps", "rope_theta", "initializer_range", "embedding_scale")
        if self.local_rope_theta is not None:
            _check_positive(self, "local_rope_theta")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads})"
            )
        if self.head_dim % 2 and self.position_embedding == "rope":
            raise ValueError(f"head_dim must be even for rotary embeddings, got {self.head_dim}")
        _check_flags(self, "tie_word_embeddings", "attention_bias", "attention_output_bias", "mlp_bias")
        _check_flags(self, "qk_norm", "norm_bias", "gated_mlp", "sandwich_norms")
        self._check_choices()
        if self.sliding_window is not None:
            _check_counts(self, "sliding_window")
        self._check_layer_types()
        self._check_token_ids()

    def _default_head_dim(self) -> int:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads}) where head_dim is not given"
            )
        return self.hidden_size // self.num_attention_heads

    def _check_choices(self) -> None:
        choices = {"norm": NORMS, "position_embedding": POSITION_EMBEDDINGS, "hidden_act": ACTIVATIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.norm_bias and self.norm == "rms_norm":
            raise ValueError("norm_bias must be False for rms_norm, which has none")
        if self.norm_weight_offset not in (0, 1) or (self.norm_weight_offset and self.norm != "rms_norm"):
            raise ValueError(
                f"norm_weight_offset must be 0, or 1 for rms_norm, got {self.norm_weight_offset!r}"
            )

    def _check_layer_types(self) -> None:
        if self.layer_types is None:
            return
        known = {"full_attention", "sliding_attention"}
        if len(self.layer_types) != self.num_hidden_layers or not set(self.layer_types) <= known:
            raise ValueError(
                f"layer_types must hold {self.num_hidden_layers} of {sorted(known)}, "
                f"got {list(self.layer_types)}"
            )
        if "sliding_attention" in self.layer_types and self.sliding_window is None:
            raise ValueError("layer_types asks for sliding_attention, but sliding_window is None")

    def _check_token_ids(self) -> None:
        for name in ("bos_token_id", "pad_token_id"):
            if not isinstance(getattr(self, name), (int, type(None))):
                raise ValueError(f"{name} must be an integer or None, got {getattr(self, name)!r}")
        if not all(isinstance(token, int) for token in self.eos_token_ids):
            raise ValueError(f"eos_token_ids must be integers, got {self.eos_token_ids!r}")

    def window(self, layer: int) -> int | None:
        """Sliding window of one layer in tokens, None for full attention."""
        if self.layer_types is not None and self.layer_types[layer] == "full_attention":
            return None
        return self.sliding_window

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """Trainable numbers of the network; `embeddings=False` leaves out the embeddings and the head."""
        query, key_value = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * query + 2 * key_value)
        attention += (
            self.attention_bias * (query + 2 * key_value) + self.attention_output_bias * self.hidden_size
        )
        attention += self.qk_norm * 2 * self.head_dim
        inner_matrices = 2 if self.gated_mlp else 1
        mlp = (inner_matrices + 1) * self.hidden_size * self.intermediate_size
        mlp += self.mlp_bias * (inner_matrices * self.intermediate_size + self.hidden_size)
        norm = self.hidden_size * (1 + self.norm_bias)
        blocks = self.num_hidden_layers * (attention + mlp + (4 if self.sandwich_norms else 2) * norm) + norm
        tables = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size
        tables += (self.position_embedding == "learned") * self.max_position_embeddings * self.hidden_size
        return blocks + tables * embeddings


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
