"""The steps of a tokenizer.json put into the C++ core.

A step or option that is not known here is an error, never guessed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from pyllm import _tokenizers
from pyllm.tokenizers.definition import (
    BytePairs,
    CharacterPairs,
    Step,
    TokenizerDefinition,
    Unigram,
    WordPiece,
)
from pyllm.tokenizers.files import expect
from pyllm.tokenizers.patterns import PATTERNS, recognise_expression

# \w of Rust's regular expressions, where steps without an expression come from; \w of an expression is Oniguruma's.
_WORD = r"[\w\u200c\u200d&&[^²³¹¼½¾]]"


class Options:
    """The options of one step: each is asked for by name, and those that nobody asked for are an error."""

    def __init__(self, step: Step, what: str) -> None:
        self._left = dict(step)
        self.kind = expect(self._left.pop("type", None), str, f"{what}: type")
        self._what = f"{what} {self.kind}"

    def take(self, name: str, kind: type[Any] | tuple[type[Any], ...], default: Any = ...) -> Any:
        value = self._left.pop(name, default)
        if value is ...:
            raise ValueError(f"{self._what}: {name} is missing")
        return value if value is default else expect(value, kind, f"{self._what}: {name}")

    def take_pattern(self) -> tuple[str, str]:
        """(String or Regex, the pattern)."""
        pattern = expect(self._left.pop("pattern", None), dict, f"{self._what}: pattern")
        if len(pattern) != 1 or not pattern.keys() <= {"String", "Regex"}:
            raise ValueError(f"{self._what}: pattern: expected a String or a Regex, got {sorted(pattern)}")
        ((kind, text),) = pattern.items()
        return kind, expect(text, str, f"{self._what}: pattern")

    def finish(self) -> None:
        if self._left:
            raise ValueError(f"{self._what}: the option {next(iter(self._left))!r} is not known")

    def unknown(self) -> ValueError:
        return ValueError(f"{self._what} is not supported")


def flatten(component: Any, members: str) -> tuple[Step, ...]:
    """The steps of a pipeline in order: a Sequence's members, nested ones too, the step itself, or none."""
    steps: list[Step] = []
    waiting = [component] if component is not None else []
    while waiting:
        step = expect(waiting.pop(), dict, members)
        if step.get("type") != "Sequence":
            steps.append(step)
            continue
        inner = expect(step.get(members), list, members)
        if len(waiting) + len(inner) > 1000:
            raise ValueError(f"{members}: more than 1000 steps")
        waiting += reversed(inner)
    return tuple(steps)


def build_encoding(definition: TokenizerDefinition, tables: tuple[Any, Any]) -> Any:
    """The C++ tokenizer. tables: see `decoding.decoding_tables`."""
    prepared = definition.prepared
    return _tokenizers.Encoding(
        model=_model(definition) if prepared is None else _prepared_model(definition),
        tokens=tables[0],
        first_tokens=tables[1],
        normalizers=build_normalizers(definition.normalizers),
        pretokenizer=build_pretokenizer(definition.pre_tokenizers, isinstance(definition.model, BytePairs)),
        added_tokens=(
            _tokenizers.AddedTokens(definition.added_tokens) if prepared is None else prepared.added()
        ),
    )


def _model(definition: TokenizerDefinition) -> Any:
    model, tokens = definition.model, definition.tokens
    hidden = _hidden(definition)
    if isinstance(model, BytePairs):
        return _tokenizers.byte_pairs(tokens, model.merges, model.ignore_merges, hidden)
    if isinstance(model, CharacterPairs):
        return _tokenizers.character_pairs(
            tokens,
            merges=model.merges,
            scores=[] if model.scores is None else model.scores,
            ignore_merges=model.ignore_merges,
            hidden=hidden,
            frozen=model.user_defined,
            unknown=model.unk_id,
            fuse_unknown=model.fuse_unk,
            bytes=model.byte_ids,
        )
    if isinstance(model, Unigram):
        return _tokenizers.unigram(
            tokens,
            scores=model.scores,
            hidden=hidden,
            user_defined=model.user_defined,
            score_range=model.score_range,
            unknown=model.unk_id,
            fuse_unknown=model.fuse_unk,
            bytes=model.byte_ids,
            double_precision=model.double_precision,
        )
    return _tokenizers.word_piece(tokens, hidden, model.prefix, model.unk_id, model.max_characters)


def _hidden(definition: TokenizerDefinition) -> list[int]:
    """The ids that text never gives."""
    count = len(definition.tokens)
    special = {token.id for token in definition.added_tokens if token.special and token.id < count}
    return sorted(special.union(definition.hidden))


def _prepared_model(definition: TokenizerDefinition) -> Any:
    """The model from the tables of a file of our own form; byte-level BPE is made anew."""
    model, tokens, file = definition.model, definition.tokens, definition.prepared
    if isinstance(model, BytePairs):
        return _model(definition)
    if isinstance(model, WordPiece):
        return _tokenizers.load_word_piece(file, tokens, model.prefix, model.unk_id, model.max_characters)
    fallback = {"unknown": model.unk_id, "fuse_unknown": model.fuse_unk, "bytes": model.byte_ids}
    if isinstance(model, CharacterPairs):
        scores: Any = [] if model.scores is None else model.scores
        return _tokenizers.load_character_pairs(
            file, tokens, scores=scores, ignore_merges=model.ignore_merges, **fallback
        )
    return _tokenizers.load_unigram(
        file,
        tokens,
        hidden=_hidden(definition),
        lowest_score=model.score_range[0],
        double_precision=model.double_precision,
        **fallback,
    )


def build_normalizers(steps: Iterable[Step]) -> Any:
    """The C++ list of normalizers. Raises ValueError, naming what is not supported."""
    core = _tokenizers.NormalizerList()
    for step in steps:
        options = Options(step, "normalizer")
        _add_normalizer(core, options)
        options.finish()
    return core


def _add_normalizer(core: Any, options: Options) -> None:
    match options.kind:
        case "NFC" | "NFD" | "NFKC" | "NFKD":
            core.form(options.kind)
        case "Lowercase":
            core.lowercase()
        case "StripAccents":
            core.strip_accents()
        case "Strip":
            core.strip(options.take("strip_left", bool), options.take("strip_right", bool))
        case "Prepend":
            core.prepend(options.take("prepend", str))
        case "Replace":
            kind, pattern = options.take_pattern()
            core.replace(kind, pattern, options.take("content", str))
        case "Precompiled":
            charsmap = options.take("precompiled_charsmap", (str, type(None)))
            if charsmap:
                core.precompiled(_decoded(charsmap))
        case "BertNormalizer":
            lowercase = options.take("lowercase", bool)
            accents = options.take("strip_accents", (bool, type(None)), None)
            clean, chinese = options.take("clean_text", bool), options.take("handle_chinese_chars", bool)
            core.bert(clean, chinese, lowercase if accents is None else accents, lowercase)
        case "SentencePiece":
            core.sentencepiece(
                charsmap=options.take("charsmap", bytes),
                user_defined=options.take("user_defined", list),
                **{name: options.take(name, bool) for name in _SENTENCEPIECE_FLAGS},
            )
        case _:
            raise options.unknown()


_SENTENCEPIECE_FLAGS = (
    "add_dummy_prefix",
    "remove_extra_whitespaces",
    "escape_whitespaces",
    "treat_whitespace_as_suffix",
)


def _decoded(charsmap: str) -> bytes:
    try:
        return base64.b64decode(charsmap, validate=True)
    except ValueError as error:
        raise ValueError(f"normalizer Precompiled: precompiled_charsmap is not base64: {error}") from None


def build_pretokenizer(steps: Iterable[Step], byte_level: bool) -> Any:
    """The C++ pretokenizer; `byte_level` says whether the model takes bytes.

    Raises ValueError, naming what is not supported.
    """
    core = _tokenizers.Pretokenizer()
    steps = _with_known_pattern(tuple(steps))
    for i, step in enumerate(steps):
        if step.get("type") in ("ByteLevel", "Pattern") and (not byte_level or i + 1 < len(steps)):
            raise ValueError(
                f"pre_tokenizer {step['type']} is only supported as the last step of byte-level BPE"
            )
        options = Options(step, "pre_tokenizer")
        _add_pretokenizer(core, options)
        options.finish()
    return core


def _add_pretokenizer(core: Any, options: Options) -> None:
    match options.kind:
        case "Pattern":
            core.scanner(PATTERNS[options.take("name", str)].grammar)
        case "ByteLevel":
            options.take("trim_offsets", bool, True)
            if options.take("add_prefix_space", bool, True):
                core.prefix_space()
            core.scanner("gpt2" if options.take("use_regex", bool, True) else "none")
        case "Split":
            kind, pattern = options.take_pattern()
            core.split(kind, pattern, options.take("behavior", str), options.take("invert", bool, False))
        case "Digits":
            core.split_digits("Isolated" if options.take("individual_digits", bool) else "Contiguous")
        case "Punctuation":
            core.split_punctuation(options.take("behavior", str, "Isolated"))
        case "Whitespace":
            core.split("Regex", f"[{_WORD}]+|[^{_WORD}\\s]+", "Removed", True)
        case "WhitespaceSplit":
            core.split_whitespace()
        case "BertPreTokenizer":
            core.split_whitespace()
            core.split_punctuation("Isolated")
        case "CharDelimiterSplit":
            core.split("String", options.take("delimiter", str), "Removed", False)
        case "Metaspace":
            marker, scheme = metaspace_options(options)
            core.metaspace(marker, scheme, options.take("split", bool, True))
        case _:
            raise options.unknown()


def metaspace_options(options: Options) -> tuple[str, str]:
    """(replacement, prepend_scheme); older files say add_prefix_space instead of the scheme."""
    prefix = options.take("add_prefix_space", bool, True)
    options.take("str_rep", str, "")
    scheme = options.take("prepend_scheme", str, "always" if prefix else "never")
    return options.take("replacement", str), scheme


def known_pattern(steps: tuple[Step, ...]) -> str | None:
    """The pattern that the steps are, or None."""
    if not steps or steps[-1].get("type") not in ("ByteLevel", "Pattern"):
        return None
    *before, last = steps
    if last["type"] == "Pattern":
        return last["name"] if not before else None
    splits = last.get("use_regex", True)
    if last.get("add_prefix_space", True):
        return None
    if not before:
        return "gpt2" if splits else "none"
    if splits and before == [{"type": "Digits", "individual_digits": True}]:
        return "smollm"
    return _split_pattern(before[0]) if len(before) == 1 and not splits else None


def _split_pattern(split: Mapping[str, Any]) -> str | None:
    """Every known expression matches all of the text, so removing what lies between matches removes nothing."""
    how = (split.get("behavior"), bool(split.get("invert")))
    pattern = split.get("pattern")
    if split.get("type") != "Split" or how not in (("Isolated", False), ("Removed", True)):
        return None
    return recognise_expression(pattern.get("Regex")) if isinstance(pattern, dict) else None


def _with_known_pattern(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    name = known_pattern(steps)
    return steps if name is None else ({"type": "Pattern", "name": name},)
