"""What a tokenizer is made of, as plain data: loaders make it, savers write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pyllm import _tokenizers

# No vocabulary comes near; bounds what a hostile id can make us allocate.
MAX_IDS: int = _tokenizers.most_ids
NO_ID = 0xFFFFFFFF


class AddedToken(NamedTuple):
    """A string that is found in the text before it is cut into pieces. Flags as in the tokenizers package.

    `lstrip`/`rstrip` take the whitespace beside it too, `single_word` wants no word character beside it, `normalized`
    looks for it after normalization. Special tokens follow the rule of `Tokenizer.encode`; others always match.
    """

    content: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class BytePairs:
    """Byte-level BPE.

    merges: (n, 3) uint32, ids of left, right and merged, by rank; None: any two tokens merge that join to a token,
        and the lowest id wins (tiktoken).
    ignore_merges: a piece that is a token is that token even if merges do not lead to it.
    """

    merges: np.ndarray | None
    ignore_merges: bool = False


@dataclass(frozen=True)
class CharacterPairs:
    """BPE that starts from characters, SentencePiece's.

    merges: as in BytePairs; None: any two symbols merge that join to a token, and the highest score wins.
    scores: float32 by id, if there are no merges.
    byte_ids: the ids of the tokens of the 256 bytes (NO_ID: there is none), for characters without token; empty, or
        one is missing: they become `unk_id`, or are left out if that is None. fuse_unk: neighbours share one.
    user_defined: ids of tokens that are found before everything else.
    """

    merges: np.ndarray | None
    scores: np.ndarray | None = None
    ignore_merges: bool = False
    unk_id: int | None = None
    fuse_unk: bool = True
    byte_ids: tuple[int, ...] = ()
    user_defined: tuple[int, ...] = ()


@dataclass(frozen=True)
class Unigram:
    """The most probable tokens. scores: float64 by id; score_range: lowest and highest of those that count.

    double_precision: sums are kept in 64 bits, as tokenizers does, and not in 32, as sentencepiece does.
    """

    scores: np.ndarray
    score_range: tuple[float, float]
    unk_id: int | None
    fuse_unk: bool = True
    byte_ids: tuple[int, ...] = ()
    user_defined: tuple[int, ...] = ()
    double_precision: bool = False


@dataclass(frozen=True)
class WordPiece:
    """The longest token first; continuations of a word are spelled with a prefix."""

    unk_id: int
    prefix: str = "##"
    max_characters: int = 100


Model = BytePairs | CharacterPairs | Unigram | WordPiece
# One step of a pipeline as tokenizer.json writes it: {"type": ..., its options}. Two have no counterpart there:
# {"type": "SentencePiece"} is the normalizer of a .model file, and {"type": "Pattern", "name": ...} one of `patterns`.
Step = Mapping[str, Any]


@dataclass(frozen=True)
class TokenizerDefinition:
    """A tokenizer.

    tokens: bytes of each id, None where an id has no token; added tokens are included. Byte-level BPE has the bytes
        themselves, the other models what the vocabulary spells.
    normalizers, pre_tokenizers, decoders: the steps in order.
    hidden: ids that text never gives, beside special tokens: control pieces, byte tokens, unused pieces.
    prefix_ids, suffix_ids: what `add_special_tokens=True` puts around the ids of one text.
    post_processors: the steps of a tokenizer.json that do it, for pairs too; () where there is none.
    chat_template: Jinja source, or several by name.
    prepared: the file of our own form whose tables are used instead of making them from the rest (`own_file`).
    """

    tokens: Sequence[bytes | None]  # becomes `_tokenizers.Tokens`
    model: Model
    normalizers: tuple[Step, ...] = ()
    pre_tokenizers: tuple[Step, ...] = ()
    decoders: tuple[Step, ...] = ()
    hidden: tuple[int, ...] = ()
    added_tokens: list[AddedToken] = field(default_factory=list)
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    post_processors: tuple[Step, ...] = ()
    bos_token: str | None = None
    eos_token: str | None = None
    chat_template: str | Mapping[str, str] | None = None
    prepared: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, _tokenizers.Tokens):
            object.__setattr__(self, "tokens", _tokenizers.Tokens(self.tokens))


BYTE_LEVEL_DECODER: Step = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}


def pattern_step(name: str) -> Step:
    """The pre_tokenizer step of one of `patterns.PATTERNS`."""
    return {"type": "Pattern", "name": name}


def byte_ids(id_of: Callable[[str], int | None]) -> tuple[int, ...]:
    """The ids of <0x00> ... <0xFF>, NO_ID for those that are missing; () if all are."""
    found = [id_of(f"<0x{byte:02X}>") for byte in range(256)]
    return tuple(NO_ID if i is None else i for i in found) if any(i is not None for i in found) else ()


def tokens_by_id(numbered: Mapping[int, bytes], what: str) -> list[bytes | None]:
    """The list of tokens by id. Raises ValueError, naming `what`, for an id below 0 or beyond any vocabulary."""
    for token_id in numbered:
        check_id(token_id, what)
    tokens: list[bytes | None] = [None] * (max(numbered, default=-1) + 1)
    for token_id, token in numbered.items():
        tokens[token_id] = token
    return tokens


def check_id(token_id: int, what: str) -> None:
    """Raises ValueError, naming `what`, for an id below 0 or beyond any vocabulary."""
    if not 0 <= token_id < MAX_IDS:
        raise ValueError(f"{what}: expected ids from 0 to {MAX_IDS - 1}, got {token_id}")
