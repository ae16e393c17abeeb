"""Continuing text: options, the decoding loop, stop strings, streaming."""

from pyllm.generation.config import GenerationConfig
from pyllm.generation.log_probs import sequence_log_probs, token_log_probs
from pyllm.generation.loop import Completion, TextStream, generate, stream

__all__ = [
    "Completion",
    "GenerationConfig",
    "TextStream",
    "generate",
    "sequence_log_probs",
    "stream",
    "token_log_probs",
]
