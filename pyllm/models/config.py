"""What a decoder-only transformer is made of, as data: shapes and options."""

from __future__ import annotations

from dataclasses import dataclass

from pyllm.models.checks import check_choices, check_counts, check_flags, check_positive, check_token_ids
from pyllm.models.rope import RopeScaling

NORMS = ("rms_norm", "layer_norm")
POSITION_EMBEDDINGS = ("rope", "learned")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")
# Far above any real model; keeps a hostile config.json from building lists without end.
MAX_LAYERS = 4096
MAX_EXPERTS = 4096


@dataclass(frozen=True)
class MixtureOfExperts:
    """Several MLPs in the place of one, of which a router picks a few for each token (arXiv 2101.03961, 2401.04088).

    Attributes:
        num_experts, experts_per_token: how many there are, and how many a token visits: those of the largest router
            probability.
        intermediate_size: of each expert.
        normalize: the probabilities of the chosen experts are divided by their sum.
        shared_intermediate_size: of an expert that every token visits, weighted by a sigmoid gate of its own; None:
            there is none.
        dense_layers: layers that have an ordinary MLP of the model's `intermediate_size`.
    """

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    normalize: bool = True
    shared_intermediate_size: int | None = None
    dense_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_counts(self, "num_experts", "experts_per_token", "intermediate_size")
        check_flags(self, "normalize")
        if self.shared_intermediate_size is not None:
            check_counts(self, "shared_intermediate_size")
        if self.num_experts > MAX_EXPERTS:
            raise ValueError(f"num_experts must be at most {MAX_EXPERTS}, got {self.num_experts}")
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"experts_per_token must be at most num_experts ({self.num_experts}), got {self.experts_per_token}"
            )
        if not all(isinstance(layer, int) and layer >= 0 for layer in self.dense_layers):
            raise ValueError(f"dense_layers must be layer numbers, got {self.dense_layers!r}")


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and options of a pre-norm decoder, by default with grouped-query attention, RoPE and SwiGLU.

    Names are Hugging Face's. The defaults of the options describe LLaMA; docs/families.md lists what each family
    sets, `pyllm.models.presets` has GPT-2, GPT-3 and PaLM.

    Attributes:
        model_type: family name used when the model is saved; a key of `pyllm.checkpoints.hf_config.FAMILIES`.
        head_dim: hidden_size / num_attention_heads where None is given.
        num_key_value_heads: num_attention_heads where None is given; 1 is multi-query attention.
        rotary_dim: components of each head that RoPE rotates, the first ones; head_dim where None is given.
        rope_interleaved: RoPE turns components 2i and 2i + 1 together, not i and i + rotary_dim / 2.
        attention_bias: query, key and value projections have a bias; `attention_output_bias`: the output
            projection has one; `mlp_bias`: the projections of the MLP have one.
        attention_scale: scores are multiplied by it; None: 1 / sqrt(head_dim).
        attention_softcap: scores become cap * tanh(score / cap); `logit_softcap`: the same for the logits.
        logit_scale: logits are multiplied by it.
        qk_norm: RMSNorm over each head of query and key before RoPE.
        norm: "rms_norm" or "layer_norm", with `rms_norm_eps` either way; `norm_bias`: LayerNorm has a bias.
        norm_weight_offset: RMSNorms multiply by weight + this; Gemma's is 1.
        sandwich_norms: attention's and the MLP's outputs are normalized too, before they join the residual stream.
        parallel_block: attention and MLP read the same norm, and both outputs join the residual stream (PaLM).
        embedding_scale: embeddings are multiplied by it; Gemma's is sqrt(hidden_size).
        local_rope_theta: the base of RoPE, without scaling, in layers with a sliding window; None: as in the others.
        position_embedding: "rope", or "learned": a table of `max_position_embeddings` rows added to the input.
        gated_mlp: down(act(gate) * up), otherwise down(act(up)); `hidden_act`: "silu", "gelu" or "gelu_tanh".
        experts: a mixture of experts in the place of the MLPs.
        sliding_window: a query sees itself and the `sliding_window - 1` keys before it, in the layers whose
            `layer_types` entry is "sliding_attention" (all layers where `layer_types` is None).
        prefix_decoder: tokens of a prompt see each other in both directions; generation asks for it.
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
    rotary_dim: int | None = None
    rope_interleaved: bool = False
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    logit_scale: float = 1.0
    qk_norm: bool = False
    norm: str = "rms_norm"
    norm_bias: bool = False
    norm_weight_offset: float = 0.0
    sandwich_norms: bool = False
    parallel_block: bool = False
    embedding_scale: float = 1.0
    local_rope_theta: float | None = None
    position_embedding: str = "rope"
    gated_mlp: bool = True
    hidden_act: str = "silu"
    experts: MixtureOfExperts | None = None
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None
    prefix_decoder: bool = False
    initializer_range: float = 0.02
    model_type: str = "llama"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        check_counts(self, "num_attention_heads", "max_position_embeddings")
        if self.num_hidden_layers > MAX_LAYERS:
            raise ValueError(f"num_hidden_layers must be at most {MAX_LAYERS}, got {self.num_hidden_layers}")
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self._default_head_dim())
        if self.rotary_dim == self.head_dim:
            object.__setattr__(self, "rotary_dim", None)
        check_counts(self, "num_key_value_heads", "head_dim")
        check_positive(
            self, "rms_norm_eps", "rope_theta", "initializer_range", "embedding_scale", "logit_scale"
        )
        for name in ("local_rope_theta", "attention_scale", "attention_softcap", "logit_softcap"):
            if getattr(self, name) is not None:
                check_positive(self, name)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads})"
            )
        if self.position_embedding == "rope":
            self._check_rotary_dim()
        check_flags(self, "tie_word_embeddings", "attention_bias", "attention_output_bias", "mlp_bias")
        check_flags(self, "qk_norm", "norm_bias", "gated_mlp", "sandwich_norms")
        check_flags(self, "rope_interleaved", "parallel_block", "prefix_decoder")
        self._check_choices()
        if self.sliding_window is not None:
            check_counts(self, "sliding_window")
        self._check_layer_types()
        check_token_ids(self)

    def _default_head_dim(self) -> int:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads}) where head_dim is not given"
            )
        return self.hidden_size // self.num_attention_heads

    def _check_rotary_dim(self) -> None:
        if self.rotary_dim is None and self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary embeddings, got {self.head_dim}")
        if self.rotary_dim is not None:
            check_counts(self, "rotary_dim")
            if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
                raise ValueError(
                    f"rotary_dim must be even and at most head_dim ({self.head_dim}), got {self.rotary_dim}"
                )

        scaling, pairs = self.rope_scaling, self.rotated // 2
        if scaling is not None and scaling.kind == "longrope" and len(scaling.short_factors) != pairs:
            raise ValueError(
                f"rope scaling 'longrope' needs {pairs} short_factors and long_factors, "
                f"got {len(scaling.short_factors)}"
            )
        if scaling is not None and scaling.kind == "dynamic" and pairs < 2:
            raise ValueError(f"rope scaling 'dynamic' needs a rotary_dim above 2, got {self.rotated}")

    def _check_choices(self) -> None:
        check_choices(self, norm=NORMS, position_embedding=POSITION_EMBEDDINGS, hidden_act=ACTIVATIONS)
        if self.parallel_block and self.sandwich_norms:
            raise ValueError("sandwich_norms must be False in a parallel_block, which has one norm")
        if self.norm_bias and self.norm == "rms_norm":
            raise ValueError("norm_bias must be False for rms_norm, which has none")
        if self.norm_weight_offset not in (0, 1) or (self.norm_weight_offset and self.norm != "rms_norm"):
            raise ValueError(
                f"norm_weight_offset must be 0, or 1 for rms_norm, got {self.norm_weight_offset!r}"
            )

    def _check_layer_types(self) -> None:
        if self.prefix_decoder and self.sliding_window is not None:
            raise ValueError("sliding_window must be None for a prefix_decoder")
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

    @property
    def rotated(self) -> int:
        """Components of each head that RoPE rotates."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

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
        norms = 1 if self.parallel_block else 4 if self.sandwich_norms else 2
        norm = self.hidden_size * (1 + self.norm_bias)
        blocks = self.num_hidden_layers * (attention + norms * norm) + norm
        blocks += sum(self._mlp_parameters(layer) for layer in range(self.num_hidden_layers))
        tables = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size
        tables += (self.position_embedding == "learned") * self.max_position_embeddings * self.hidden_size
        return blocks + tables * embeddings

    def _mlp_parameters(self, layer: int) -> int:
        matrices, experts, width = 3 if self.gated_mlp else 2, self.experts, self.hidden_size
        if experts is None or layer in experts.dense_layers:
            biases = self.mlp_bias * ((matrices - 1) * self.intermediate_size + width)
            return matrices * width * self.intermediate_size + biases
        shared = experts.shared_intermediate_size
        gated = 0 if shared is None else matrices * width * shared + width
        return experts.num_experts * width * (matrices * experts.intermediate_size + 1) + gated
