"""GPT-2's printable alphabet: one character for every byte, in which vocabulary files spell their tokens."""

from __future__ import annotations

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_CHARACTER_OF_BYTE = {byte: byte for byte in _PRINTABLE} | {byte: 0x100 + i for i, byte in enumerate(_OTHERS)}


class _ByteOfCharacter(dict[int, int]):
    def __missing__(self, code_point: int) -> int:
        raise ValueError(f"{chr(code_point)!r} is not in the byte-level alphabet")


_BYTE_OF_CHARACTER = _ByteOfCharacter({character: byte for byte, character in _CHARACTER_OF_BYTE.items()})


def spell(token: bytes) -> str:
    """The token in the alphabet, one character for each byte."""
    return token.decode("latin-1").translate(_CHARACTER_OF_BYTE)


def unspell(spelling: str) -> bytes:
    """The bytes that the alphabet spells. Raises ValueError for a character that is not in it."""
    return spelling.translate(_BYTE_OF_CHARACTER).encode("latin-1")
