"""torch.nn modules over pyllm's ops. State-dict names are those of torch and transformers."""

from pyllm.nn.attention import Attention, AttentionCache
from pyllm.nn.functional import scaled_dot_product_attention
from pyllm.nn.layer_norm import LayerNorm
from pyllm.nn.linear import Linear
from pyllm.nn.mixture_of_experts import MixtureOfExpertsMLP
from pyllm.nn.mlp import MLP, GatedMLP
from pyllm.nn.rms_norm import RMSNorm
from pyllm.nn.rotary import RotaryEmbedding

__all__ = [
    "MLP",
    "Attention",
    "AttentionCache",
    "GatedMLP",
    "LayerNorm",
    "Linear",
    "MixtureOfExpertsMLP",
    "RMSNorm",
    "RotaryEmbedding",
    "scaled_dot_product_attention",
]
