"""Tokens looked up one by one, under the names of tiktoken and of Hugging Face's tokenizers, and the rule for special
tokens that a text spells out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

from pyllm.tokenizers.byte_alphabet import spell
from pyllm.tokenizers.definition import BytePairs, TokenizerDefinition

Specials = Literal["all"] | Collection[str]
# Allowed and disallowed.
SpecialsRule = tuple[str | frozenset[str], str | frozenset[str]]


class TokenLookup:
    """What a Tokenizer knows of single tokens."""

    _definition: TokenizerDefinition
    _encoding: Any
    vocab_size: int
    special_tokens: dict[str, int]
    _rules: dict[SpecialsRule, tuple[Any, Any]]

    @property
    def n_vocab(self) -> int:
        """The largest id + 1."""
        return self.vocab_size

    @property
    def max_token_value(self) -> int:
        """The largest id."""
        return self.vocab_size - 1

    @property
    def special_tokens_set(self) -> set[str]:
        """The names of the special tokens."""
        return set(self.special_tokens)

    def is_special_token(self, token: int) -> bool:
        """Whether the id is a special token's."""
        return token in self._special_ids

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """The id of the token with exactly these bytes, or of the special token of that name.

        Raises KeyError if there is none.
        """
        piece = text_or_bytes.encode() if isinstance(text_or_bytes, str) else bytes(text_or_bytes)
        return self._ids_by_bytes[piece]

    def decode_single_token_bytes(self, token: int) -> bytes:
        """The bytes of a token within a text. Raises KeyError for an id without token."""
        try:
            return self._encoding.decode([token], False)
        except ValueError:
            raise KeyError(token) from None

    def decode_tokens_bytes(self, tokens: Iterable[int]) -> list[bytes]:
        """`decode_single_token_bytes` of each."""
        return [self.decode_single_token_bytes(token) for token in tokens]

    def token_byte_values(self) -> list[bytes]:
        """The bytes of all tokens that are not added, sorted."""
        return sorted(token for token, i in self._ids_by_bytes.items() if i not in self._added_ids)

    def id_to_token(self, token: int) -> str | None:
        """How a tokenizer.json spells the token (byte-level BPE: one letter for each byte); None if there is none."""
        return self._spellings.get(token)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token spelled as in `id_to_token`; None if there is none."""
        return self._ids_by_spelling.get(token)

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Spelling -> id of all tokens."""
        added = set() if with_added_tokens else self._added_ids
        return {text: i for text, i in self._ids_by_spelling.items() if i not in added}

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """How many tokens there are; `vocab_size` counts ids without token too."""
        return len(self.get_vocab(with_added_tokens))

    def _checked_options(
        self, texts: Sequence[Any], allowed_special: Specials, disallowed_special: Specials
    ) -> Any:
        """The options of the C++ core, after a look for disallowed tokens in the texts."""
        rule = _frozen(allowed_special), _frozen(disallowed_special)
        known = self._rules.get(rule)
        options, refused = known if known is not None else self._learn(rule)
        if refused is None:
            return options
        for text in texts:
            found = self._encoding.find_added(text, refused)
            if found is not None:
                raise ValueError(
                    f"text: it spells the special token {found!r}, which is not allowed; "
                    f"pass allowed_special={{{found!r}}} to encode it as that token, "
                    "or disallowed_special=() to encode it as plain text"
                )
        return options

    def _learn(self, rule: SpecialsRule) -> tuple[Any, Any]:
        """The core's options for encoding, and for finding what is disallowed (None: nothing is)."""
        allowed = self._named(rule[0], "allowed_special")
        disallowed = self._named(rule[1], "disallowed_special")
        if rule[1] == "all":
            disallowed -= allowed
        added = self._definition.added_tokens
        options = self._encoding.options([not token.special or token.content in allowed for token in added])
        refused = (
            self._encoding.options([token.content in disallowed for token in added]) if disallowed else None
        )
        self._rules[rule] = options, refused
        return options, refused

    def _named(self, names: str | frozenset[str], argument: str) -> frozenset[str]:
        if isinstance(names, str):
            if names != "all":
                raise ValueError(
                    f"{argument}: expected 'all' or a collection of special tokens, got {names!r}"
                )
            return frozenset(self.special_tokens)
        unknown = names - self.special_tokens.keys()
        if unknown:
            raise ValueError(f"{argument}: {sorted(unknown)} are not special tokens of this tokenizer")
        return names

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.special_tokens.values())

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(token.id for token in self._definition.added_tokens)

    @cached_property
    def _ids_by_bytes(self) -> dict[bytes, int]:
        """Of tokens with the same bytes the first one counts, and added tokens after all others."""
        found: dict[bytes, int] = {}
        for i, token in enumerate(self._definition.tokens):
            if token is not None and i not in self._added_ids:
                found.setdefault(token, i)
        for added in self._definition.added_tokens:
            found.setdefault(added.content.encode("utf-8", "replace"), added.id)
        return found

    @cached_property
    def _spellings(self) -> dict[int, str]:
        byte_level = isinstance(self._definition.model, BytePairs)
        spellings = {
            i: spell(token) if byte_level else token.decode("utf-8", "replace")
            for i, token in enumerate(self._definition.tokens)
            if token is not None
        }
        spellings.update({token.id: token.content for token in self._definition.added_tokens})
        return spellings

    @cached_property
    def _ids_by_spelling(self) -> dict[str, int]:
        return {text: i for i, text in reversed(self._spellings.items())}


def _frozen(names: Specials) -> str | frozenset[str]:
    return names if isinstance(names, str) else frozenset(names)
