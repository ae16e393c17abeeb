"""Tokenizers: train, load, encode, decode, stream, save; chat templates. Works without torch.

Tokenizer.train / from_file -> TokenizerDefinition (plain data) -> C++ core -> ids
"""

from pyllm.tokenizers.compression import compression
from pyllm.tokenizers.definition import AddedToken, TokenizerDefinition
from pyllm.tokenizers.streaming import StreamDecoder
from pyllm.tokenizers.tokenizer import Tokenizer

__all__ = ["AddedToken", "StreamDecoder", "Tokenizer", "TokenizerDefinition", "compression"]
