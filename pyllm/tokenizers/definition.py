"""What a byte-level BPE tokenizer is made of, as plain data: loaders make it, savers write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# No vocabulary comes near; bounds what a hostile id can make us allocate.
MAX_IDS = 1 << 22


@dataclass(frozen=True)
class AddedToken:
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
class TokenizerDefinition:
    """A byte-level BPE tokenizer.

    tokens: bytes of each id, None where an id has no token; added tokens are included.
    merges: (n, 3) uint32, ids of left, right and merged, by rank; None: any two tokens merge that join to a token,
        and the lowest id wins (tiktoken).
    ignore_merges: a piece that is a token is that token even if merges do not lead to it.
    pattern: name of the pretokenizer, a key of `patterns.PATTERNS`.
    nfc: normalize text to Unicode NFC.
    prefix_ids, suffix_ids: what `add_special_tokens=True` puts around the ids.
    chat_template: Jinja source, or several by name.
    """

    tokens: list[bytes | None]
    merges: np.ndarray | None
    pattern: str
    ignore_merges: bool = False
    nfc: bool = False
    added_tokens: list[AddedToken] = field(default_factory=list)
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    bos_token: str | None = None
    eos_token: str | None = None
    chat_template: str | Mapping[str, str] | None = None


def tokens_by_id(numbered: Mapping[int, bytes], what: str) -> list[bytes | None]:
    """The list of tokens by id. Raises ValueError, naming `what`, for an id below 0 or beyond any vocabulary."""
    for token_id in numbered:
        if not 0 <= token_id < MAX_IDS:
            raise ValueError(f"{what}: expected ids from 0 to {MAX_IDS - 1}, got {token_id}")
    tokens: list[bytes | None] = [None] * (max(numbered, default=-1) + 1)
    for token_id, token in numbered.items():
        tokens[token_id] = token
    return tokens


def merge_ids(merges: Sequence[Any], ids: Mapping[str, int], what: str) -> np.ndarray:
    """The (n, 3) ids of left, right and merged of merges spelled "left right" or [left, right].

    Raises ValueError, naming `what` and the rank, for an entry that does not join two tokens of `ids` to a third.
    """
    rows: list[tuple[int, int, int]] = []
    try:
        for entry in merges:
            left, right = entry.split(" ") if isinstance(entry, str) else entry
            rows.append((ids[left], ids[right], ids[left + right]))
    except (KeyError, TypeError, ValueError):
        wrong = merges[len(rows)]
        raise ValueError(f"{what}[{len(rows)}]: {wrong!r} does not join two tokens to a third") from None
    columns = [np.fromiter((row[i] for row in rows), dtype=np.uint32, count=len(rows)) for i in range(3)]
    return np.stack(columns, axis=1)
