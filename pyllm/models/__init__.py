"""Decoder-only language models: a configuration, the transformer it turns into, and the key-value cache."""

from pyllm.models.config import PRESETS, ModelConfig, RopeScaling, gpt2_config, preset
from pyllm.models.kv_cache import KVCache
from pyllm.models.transformer import Transformer

__all__ = ["PRESETS", "KVCache", "ModelConfig", "RopeScaling", "Transformer", "gpt2_config", "preset"]
