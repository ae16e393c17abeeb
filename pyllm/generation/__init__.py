"""Continuing text: options, the engine, beam search, stop strings, streaming."""

from pyllm.generation.calls import generate, stream
from pyllm.generation.completion import Completion
from pyllm.generation.config import GenerationConfig
from pyllm.generation.engine import Engine
from pyllm.generation.log_probs import sequence_log_probs, token_log_probs
from pyllm.generation.request import Request

__all__ = [
    "Completion",
    "Engine",
    "GenerationConfig",
    "Request",
    "generate",
    "sequence_log_probs",
    "stream",
    "token_log_probs",
]
