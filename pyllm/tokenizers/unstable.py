"""Texts that go on: which ids stand whatever follows, and what the rest can become (tiktoken's encode_with_unstable).

    "hello fanta"  ->  [hello][ fanta]     stable: hello     completions: [ fanta], [ fantastic], [ fan][tas], ...

The last piece is not stable: a longer text may merge it otherwise. Every completion is the shortest run of ids that
covers the unstable bytes in some longer text. The search tries every token that could straddle the end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Protocol

_SPACES = frozenset(b" \n\t")


class Codec(Protocol):
    """What the search needs of a tokenizer."""

    def decode_single_token_bytes(self, token: int) -> bytes: ...
    def encode_ordinary(self, text: bytes) -> list[int]: ...
    def encode_piece(self, piece: bytes) -> list[int]: ...
    def encode_single_token(self, piece: bytes) -> int: ...


def split_unstable(ids: Sequence[int], last_piece: int, codec: Codec) -> tuple[list[int], bytes]:
    """(stable ids, bytes of the others); `last_piece` is how many ids the last piece has.

    Whitespace before a last piece of whitespace is unstable too: a line break that follows may join all of it.
    """

    def is_space(token: int) -> bool:
        return _SPACES.issuperset(codec.decode_single_token_bytes(token))

    count = last_piece
    if count and is_space(ids[-count]):
        while count < len(ids) and is_space(ids[-count - 1]):
            count += 1
    border = len(ids) - count
    return list(ids[:border]), b"".join(map(codec.decode_single_token_bytes, ids[border:]))


def completions(unstable: bytes, tokens: Sequence[bytes], codec: Codec) -> set[tuple[int, ...]]:
    """What the bytes at the end of a text can become; `tokens` are those of the vocabulary, sorted."""
    found: set[tuple[int, ...]] = {
        (codec.encode_single_token(token),) for token in _starting_with(unstable, tokens)
    }
    for border in range(1, len(unstable)):
        for token in _starting_with(unstable[border:], tokens):
            longer = unstable[:border] + token
            # Whole characters may be cut into pieces anew; half ones cannot be looked at by the pretokenizer.
            encode = codec.encode_ordinary if _is_utf8(longer) else codec.encode_piece
            found.add(_covering(encode(longer), len(unstable), codec))
    found.update(_cut_before_last_space(unstable, codec))
    return found


def _starting_with(prefix: bytes, tokens: Sequence[bytes]) -> Iterator[bytes]:
    at = bisect_left(tokens, prefix)
    while at < len(tokens) and tokens[at].startswith(prefix):
        yield tokens[at]
        at += 1


def _covering(ids: Sequence[int], size: int, codec: Codec) -> tuple[int, ...]:
    covered, count = 0, 0
    while covered < size:
        covered += len(codec.decode_single_token_bytes(ids[count]))
        count += 1
    return tuple(ids[:count])


def _cut_before_last_space(unstable: bytes, codec: Codec) -> Iterator[tuple[int, ...]]:
    r"""\s+(?!\S) leaves the last space of a run to the word that follows."""
    last = unstable.decode("utf-8", "replace")[-1:]
    border = len(unstable) - len(last.encode())
    if (
        last.isspace() and not "\x1c" <= last <= "\x1f" and border > 0
    ):  # Python's spaces that no pattern's \s is
        yield (*codec.encode_piece(unstable[:border]), *codec.encode_piece(unstable[border:]))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
