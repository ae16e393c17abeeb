"""The blocks of a decoder: attention, then the MLP, or both side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyllm.models.config import ModelConfig
from pyllm.nn import MLP, Attention, GatedMLP, LayerNorm, MixtureOfExpertsMLP, RMSNorm
from pyllm.nn.attention import AttentionCache
from pyllm.nn.attention_node import normed_attention
from pyllm.nn.below_autograd import can_run_directly
from pyllm.nn.mlp_node import normed_mlp


class Places(NamedTuple):
    """Where the tokens of a step stand, as `pyllm.nn.Attention` takes it.

    Attributes:
        cos, sin: tables of RoPE, None without it.
        position_ids: (batch, tokens), None: from 0.
        cu_seqlens: borders of packed documents.
        prefix_lengths: tokens of each row that all of it sees.
    """

    cos: Tensor | None
    sin: Tensor | None
    position_ids: Tensor | None
    cu_seqlens: Tensor | None
    prefix_lengths: Tensor | None


class DecoderLayer(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then + mlp(norm(.)); or both of one norm, side by side.

    The residual stream travels apart from the last block's output, so that each addition is part of the norm
    that follows it: (output, residual) -> (output, residual), whose sum is the usual hidden state.
    """

    def __init__(
        self, config: ModelConfig, index: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.self_attn = Attention(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            bias=config.attention_bias,
            output_bias=config.attention_output_bias,
            qk_norm_eps=config.rms_norm_eps if config.qk_norm else None,
            qk_norm_offset=config.norm_weight_offset,
            window=config.window(index),
            scale=config.attention_scale,
            softcap=config.attention_softcap,
            rope_interleaved=config.rope_interleaved,
            device=device,
            dtype=dtype,
        )
        self.mlp = _mlp(config, index, device, dtype)
        self.is_windowed, self.is_parallel = config.window(index) is not None, config.parallel_block
        self.input_layernorm = hidden_norm(config, device, dtype)
        if not config.parallel_block:
            self.post_attention_layernorm = hidden_norm(config, device, dtype)
        # Hugging Face's names: with norms on both sides the one after attention is what its name says, without
        # them it is the one before the MLP.
        self.pre_feedforward_layernorm = self.post_feedforward_layernorm = None
        if config.sandwich_norms:
            self.pre_feedforward_layernorm = hidden_norm(config, device, dtype)
            self.post_feedforward_layernorm = hidden_norm(config, device, dtype)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        places: Places,
        cache: AttentionCache | None,
        checkpointing: str,
    ) -> tuple[Tensor, Tensor]:
        if self.is_parallel:
            return self._side_by_side(x, residual, places, cache, checkpointing)
        attention_norm, mlp_norm, after_attention, after_mlp = self._norms()
        recompute_attention, recompute_mlp = checkpointing == "full", checkpointing != "none"
        if cache is None and can_run_directly(x, (attention_norm, self.self_attn)):
            x, residual = normed_attention(
                x, residual, attention_norm, self.self_attn, *places, recompute=recompute_attention
            )
        else:
            normed, residual = (attention_norm(x), x) if residual is None else attention_norm(x, residual)
            x = self._attend(normed, places, cache, recompute_attention)
        x = after_attention(x)
        mlp = self.mlp
        if (
            cache is None
            and not isinstance(mlp, MixtureOfExpertsMLP)
            and can_run_directly(x, (mlp_norm, mlp))
        ):
            x, residual = normed_mlp(x, residual, mlp_norm, mlp, recompute=recompute_mlp)
        else:
            normed, residual = mlp_norm(x, residual)
            x = _call(self.mlp, normed, recompute=recompute_mlp)
        return after_mlp(x), residual

    def _side_by_side(
        self,
        x: Tensor,
        residual: Tensor | None,
        places: Places,
        cache: AttentionCache | None,
        checkpointing: str,
    ) -> tuple[Tensor, Tensor]:
        """A parallel block: attention(norm(h)) + mlp(norm(h)), and h."""
        normed, h = (self.input_layernorm(x), x) if residual is None else self.input_layernorm(x, residual)
        x = self._attend(normed, places, cache, checkpointing == "full")
        return x + _call(self.mlp, normed, recompute=checkpointing != "none"), h

    def _attend(
        self, normed: Tensor, places: Places, cache: AttentionCache | None, recompute: bool
    ) -> Tensor:
        *angles, cu_seqlens, prefix_lengths = places
        options = {"cu_seqlens": cu_seqlens, "prefix_lengths": prefix_lengths, "cache": cache}
        return _call(self.self_attn, normed, *angles, recompute=recompute and cache is None, **options)

    def _norms(self) -> tuple[Any, Any, Any, Any]:
        """Before attention, before the MLP, after attention, after the MLP."""
        if self.pre_feedforward_layernorm is None:
            return self.input_layernorm, self.post_attention_layernorm, _same, _same
        after_attention, after_mlp = self.post_attention_layernorm, self.post_feedforward_layernorm
        return self.input_layernorm, self.pre_feedforward_layernorm, after_attention, after_mlp


def _same(x: Tensor) -> Tensor:
    return x


def _mlp(
    config: ModelConfig, index: int, device: torch.device | str | None, dtype: torch.dtype | None
) -> MLP | GatedMLP | MixtureOfExpertsMLP:
    """The feed-forward part of layer `index`."""
    experts = config.experts
    if experts is None or index in experts.dense_layers:
        return (GatedMLP if config.gated_mlp else MLP)(
            config.hidden_size,
            config.intermediate_size,
            bias=config.mlp_bias,
            activation=config.hidden_act,
            device=device,
            dtype=dtype,
        )
    return MixtureOfExpertsMLP(
        config.hidden_size,
        experts.num_experts,
        experts.experts_per_token,
        experts.intermediate_size,
        normalize=experts.normalize,
        shared_intermediate_size=experts.shared_intermediate_size,
        activation=config.hidden_act,
        device=device,
        dtype=dtype,
    )


def hidden_norm(
    config: ModelConfig, device: torch.device | str | None, dtype: torch.dtype | None
) -> RMSNorm | LayerNorm:
    """What the configuration normalizes with."""
    size, eps = config.hidden_size, config.rms_norm_eps
    if config.norm == "rms_norm":
        return RMSNorm(size, eps, device=device, dtype=dtype, weight_offset=config.norm_weight_offset)
    return LayerNorm(size, eps, bias=config.norm_bias, device=device, dtype=dtype)


def _call(module: nn.Module, *arguments: Tensor | None, recompute: bool, **options: Any) -> Tensor:
    """module(...), which with `recompute` keeps its input alone for the backward."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(module, *arguments, use_reentrant=False, **options)
    return module(*arguments, **options)
