"""pyllm's Tokenizer under the interface of the package tiktoken, for tiktoken's own tests.

Vocabularies are the assets; the names of encodings and models are tiktoken's tables, which are data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pyllm import Tokenizer
from pyllm.tokenizers.definition import AddedToken, BytePairs, TokenizerDefinition, pattern_step
from pyllm.tokenizers.patterns import PATTERNS
from pyllm.tokenizers.unstable import split_unstable
from tests.assets import asset

# Encoding -> file of ranks; what special tokens p50k_edit and o200k_harmony have of their own is left out.
_FILES = {name: name for name in ("r50k_base", "p50k_base", "cl100k_base", "o200k_base")}
_FILES |= {"gpt2": "r50k_base", "p50k_edit": "p50k_base", "o200k_harmony": "o200k_base"}


class Encoding(Tokenizer):
    """Made of ranks, as tiktoken's, or of a Tokenizer."""

    def __init__(
        self,
        name: str,
        *,
        pat_str: str = "",
        mergeable_ranks: Mapping[bytes, int] | None = None,
        special_tokens: Mapping[str, int] | None = None,
        definition: TokenizerDefinition | None = None,
    ) -> None:
        self.name = name
        super().__init__(definition or _of_ranks(pat_str, mergeable_ranks or {}, special_tokens or {}))

    @property
    def _special_tokens(self) -> dict[str, int]:
        return self.special_tokens

    @property
    def _mergeable_ranks(self) -> dict[bytes, int]:
        return {token: i for token, i in self._ids_by_bytes.items() if i not in self._added_ids}

    @property
    def _pat_str(self) -> str:
        return str(self.pattern)

    def _encode_bytes(self, text: bytes) -> list[int]:
        """From the first broken character on, all bytes belong to the piece before it."""
        try:
            text.decode()
            return self.encode_ordinary(text)
        except UnicodeDecodeError as error:
            whole, rest = text[: error.start], text[error.start :]
        words = self.encode_plus(whole, add_special_tokens=False, disallowed_special=()).word_ids
        last_piece = int((words == words[-1]).sum()) if len(words) else 0
        stable, unstable = split_unstable(self.encode_ordinary(whole), last_piece, self)
        return [*stable, *self.encode_piece(unstable + rest)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self._current_definition())


def _restore(name: str, definition: TokenizerDefinition) -> Encoding:
    return Encoding(name, definition=definition)


def _of_ranks(pattern: str, ranks: Mapping[bytes, int], special: Mapping[str, int]) -> TokenizerDefinition:
    size = max(*ranks.values(), *special.values()) + 1
    tokens: list[bytes | None] = [None] * size
    for token, i in [*ranks.items(), *((name.encode(), i) for name, i in special.items())]:
        tokens[i] = token
    return TokenizerDefinition(
        tokens=tokens,
        model=BytePairs(None),
        pre_tokenizers=(pattern_step(pattern),) if pattern in PATTERNS else (),
        added_tokens=[AddedToken(name, i) for name, i in special.items()],
    )


def _file_definition(name: str) -> TokenizerDefinition:
    return Tokenizer.from_file(asset(f"gpt-tokenizer/data/{name}.tiktoken"))._current_definition()


@lru_cache
def get_encoding(name: str) -> Encoding:
    """The encoding of that name."""
    if name not in _FILES:
        raise ValueError(f"Unknown encoding {name}")
    return Encoding(name, definition=_file_definition(_FILES[name]))


def list_encoding_names() -> list[str]:
    """Those whose ranks are among the assets, each file once."""
    return ["gpt2", "p50k_base", "cl100k_base", "o200k_base"]


def encoding_for_model(model_name: str) -> Encoding:
    """By tiktoken's table of models."""
    from tiktoken.model import encoding_name_for_model

    return get_encoding(encoding_name_for_model(model_name))


def install() -> None:
    """Called before `import tiktoken` gives this module: the table of models stays tiktoken's."""
    import tiktoken.model  # noqa: F401
