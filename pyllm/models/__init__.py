"""Language models: a configuration, the network it turns into, and the key-value cache."""

from pyllm.models.config import MixtureOfExperts, ModelConfig
from pyllm.models.encoder import Encoder, EncoderConfig
from pyllm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from pyllm.models.endless import EndlessWindow
from pyllm.models.kv_cache import KVCache
from pyllm.models.paged import new_paged_caches, paged_hidden_states
from pyllm.models.presets import PRESETS, gpt2_config, gpt3_config, palm_config, preset
from pyllm.models.rope import RopeScaling
from pyllm.models.transformer import Transformer

__all__ = [
    "PRESETS",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "EndlessWindow",
    "KVCache",
    "MixtureOfExperts",
    "ModelConfig",
    "RopeScaling",
    "Transformer",
    "gpt2_config",
    "gpt3_config",
    "new_paged_caches",
    "paged_hidden_states",
    "palm_config",
    "preset",
]
