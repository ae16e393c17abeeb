"""GPT-2's printable alphabet: one character for every byte, in which vocabulary files spell their tokens."""

from __future__ import annotations

from pyllm import _tokenizers


def spell(token: bytes) -> str:
    """The token in the alphabet, one character for each byte."""
    return _tokenizers.spell(token)


def unspell(spelling: str) -> bytes:
    """The bytes that the alphabet spells. Raises ValueError for a character that is not in it."""
    return _tokenizers.unspell(spelling)
