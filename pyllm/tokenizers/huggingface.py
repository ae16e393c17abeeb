"""tokenizer.json of the tokenizers package, in. Whatever is not understood is an error, never guessed.

Truncation and padding settings are ignored: they are no part of a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyllm import _tokenizers
from pyllm.tokenizers.components import Options, flatten
from pyllm.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    NO_ID,
    AddedToken,
    BytePairs,
    CharacterPairs,
    Model,
    TokenizerDefinition,
    Unigram,
    WordPiece,
    byte_ids,
    check_id,
    pattern_step,
)
from pyllm.tokenizers.files import expect, parse_json, read_json
from pyllm.tokenizers.patterns import canonical_pattern
from pyllm.tokenizers.post_processors import parse_post_processor, surroundings

END_OF_TEXT = "<|endoftext|>"


class _TokenizerConfig(NamedTuple):
    """What tokenizer_config.json and chat_template.jinja add to tokenizer.json."""

    bos_token: str | None = None
    eos_token: str | None = None
    chat_template: str | Mapping[str, str] | None = None


def load_tokenizer_json(path: Path, pattern: str | None = None) -> TokenizerDefinition:
    """Reads a tokenizer.json; `pattern` replaces its pretokenizer.

    A file of that very name takes bos, eos and chat template from tokenizer_config.json and chat_template.jinja beside
    it. Raises ValueError for a damaged file and for a model, normalizer or pretokenizer that is not supported.
    """
    try:
        definition = _definition(_read_document(path.read_bytes()), pattern)
        beside = _read_config(path.parent) if path.name == "tokenizer.json" else _TokenizerConfig()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _with_config(definition, beside)


class _Document(NamedTuple):
    """A tokenizer.json whose large lists are in the C++ core already, and null in `rest`."""

    rest: dict[str, Any]
    vocabulary: Any  # `_tokenizers.Spellings`
    scores: np.ndarray | None  # of Unigram, by id
    merges: np.ndarray | None


def _read_document(file: bytes) -> _Document:
    rest, vocabulary, scores, merges = _tokenizers.split_tokenizer_json(file)
    return _Document(parse_json(rest), vocabulary, scores, merges)


def _definition(document: _Document, pattern: str | None) -> TokenizerDefinition:
    body = expect(document.rest.get("model"), dict, "model")
    kind = body.get("type", "BPE")
    pre_tokenizers = flatten(document.rest.get("pre_tokenizer"), "pretokenizers")
    byte_level = kind == "BPE" and any(step.get("type") == "ByteLevel" for step in pre_tokenizers)
    if pattern:
        if not byte_level:
            raise ValueError("pattern: only byte-level BPE has one")
        pre_tokenizers = (pattern_step(canonical_pattern(pattern)),)
    entries = expect(document.rest.get("added_tokens") or [], list, "added_tokens")
    added = [_added_token(entry) for entry in entries]
    _check_vocabulary(document, kind)
    model, hidden = _read_model(kind, body, document, byte_level)
    tokens = _tokens(document.vocabulary, added, byte_level)
    if isinstance(model, Unigram):
        model = replace(model, scores=np.pad(model.scores, (0, len(tokens) - len(model.scores))))
    post_processors, post_processor = parse_post_processor(document.rest.get("post_processor"))
    prefix_ids, suffix_ids = surroundings(post_processor)
    decoders = flatten(document.rest.get("decoder"), "decoders")
    if byte_level and any(step.get("type") != "ByteLevel" for step in decoders):
        raise ValueError(
            f"decoder {[step.get('type') for step in decoders]} is not supported for byte-level BPE"
        )
    return TokenizerDefinition(
        tokens=tokens,
        model=model,
        normalizers=flatten(document.rest.get("normalizer"), "normalizers"),
        pre_tokenizers=pre_tokenizers,
        decoders=(BYTE_LEVEL_DECODER,) if byte_level else decoders,
        # Tokens that only added_tokens knows are found before the model sees the text.
        hidden=(*hidden, *(token.id for token in added if document.vocabulary.get(token.content) is None)),
        added_tokens=added,
        prefix_ids=prefix_ids,
        suffix_ids=suffix_ids,
        post_processors=post_processors,
    )


def _check_vocabulary(document: _Document, kind: Any) -> None:
    unigram = kind == "Unigram"
    if document.vocabulary is None or unigram != (document.scores is not None):
        raise ValueError(f"model.vocab: expected {'list' if unigram else 'dict'}")
    if unigram and not len(document.vocabulary):
        raise ValueError("model.vocab: it is empty")
    if unigram and document.vocabulary.has_doubles:
        raise ValueError("model.vocab: a token occurs twice")


def _read_model(
    kind: Any, body: dict[str, Any], document: _Document, byte_level: bool
) -> tuple[Model, tuple[int, ...]]:
    """The model, and the ids that it never gives for text they spell."""
    options = Options({"type": "BPE", **body}, "model")
    options.take("vocab", type(None))
    model: Model
    hidden: tuple[int, ...] = ()
    match kind:
        case "BPE":
            model = _read_pairs(options, document, byte_level)
            if isinstance(model, CharacterPairs):
                hidden = tuple(token_id for token_id in model.byte_ids if token_id != NO_ID)
        case "Unigram":
            model = _read_unigram(options, document)
        case "WordPiece":
            unknown = document.vocabulary.get(options.take("unk_token", str))
            if unknown is None:
                raise ValueError("model WordPiece: unk_token is not in the vocabulary")
            prefix = options.take("continuing_subword_prefix", str)
            model = WordPiece(unknown, prefix, options.take("max_input_chars_per_word", int))
        case _:
            raise ValueError(f"model type {kind!r} is not supported")
    options.finish()
    return model, hidden


def _read_pairs(options: Options, document: _Document, byte_level: bool) -> BytePairs | CharacterPairs:
    options.take("merges", list if document.merges is None else type(None))
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        value = options.take(option, (str, float, int, type(None)), None)
        if value:
            raise ValueError(f"model: {option} {value!r} is not supported")
    ignore_merges = options.take("ignore_merges", bool, False)
    unk_token = options.take("unk_token", (str, type(None)), None)
    fuse_unk, byte_fallback = (
        options.take("fuse_unk", bool, False),
        options.take("byte_fallback", bool, False),
    )
    if byte_level:
        return BytePairs(document.merges, ignore_merges)
    return CharacterPairs(
        document.merges,
        ignore_merges=ignore_merges,
        unk_id=document.vocabulary.get(unk_token) if unk_token is not None else None,
        fuse_unk=fuse_unk,
        byte_ids=byte_ids(document.vocabulary.get) if byte_fallback else (),
    )


def _read_unigram(options: Options, document: _Document) -> Unigram:
    scores = document.scores
    unk_id = options.take("unk_id", (int, type(None)), None)
    if scores is None or (unk_id is not None and not 0 <= unk_id < len(scores)):
        raise ValueError(f"model Unigram: unk_id {unk_id} is not in the vocabulary")
    fallback = options.take("byte_fallback", bool, False)
    return Unigram(
        scores,
        (float(scores.min()), float(scores.max())),
        unk_id,
        byte_ids=byte_ids(document.vocabulary.get) if fallback else (),
        double_precision=True,
    )


_ADDED = AddedToken.__annotations__.keys()
_ADDED_TYPES = [str, int, *[bool] * 5]


def _added_token(entry: Any) -> AddedToken:
    stated = expect(entry, dict, "added_tokens")
    values = [stated.get(name, False) for name in _ADDED]
    content, token_id = values[:2]
    for name, value, kind in zip(_ADDED, values, _ADDED_TYPES, strict=True):
        if type(value) is not kind:
            raise ValueError(
                f"added_tokens: {name} of {content!r}: expected {kind.__name__}, got {type(value).__name__}"
            )
    if not content:
        raise ValueError("added_tokens: content is empty")
    check_id(token_id, "added_tokens: id")
    return AddedToken._make(values)


def _tokens(vocabulary: Any, added: list[AddedToken], byte_level: bool) -> Any:
    for token in added:
        if (token_id := vocabulary.get(token.content)) not in (None, token.id):
            raise ValueError(
                f"added_tokens: {token.content!r} has id {token.id}, but {token_id} in the vocabulary"
            )
    try:
        return vocabulary.tokens(byte_level, [(token.id, token.content) for token in added])
    except ValueError as error:
        raise ValueError(f"model.vocab: {error}") from None


def _read_config(folder: Path) -> _TokenizerConfig:
    file = folder / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    template = config.get("chat_template")
    if isinstance(template, list):
        entries = [expect(entry, dict, "chat_template") for entry in template]
        template = {
            str(entry.get("name")): expect(entry.get("template"), str, "chat_template") for entry in entries
        }
    elif template is not None:
        template = expect(template, str, "chat_template")
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        template = jinja.read_text(encoding="utf-8")
    return _TokenizerConfig(_content(config.get("bos_token")), _content(config.get("eos_token")), template)


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _with_config(definition: TokenizerDefinition, config: _TokenizerConfig) -> TokenizerDefinition:
    """Without a configuration, bos is what the post-processor puts first, and eos is `<|endoftext|>` if it is there."""
    contents = {token.content: token.id for token in definition.added_tokens}
    first = definition.prefix_ids[0] if definition.prefix_ids else None
    leading = next((content for content, token_id in contents.items() if token_id == first), None)
    bos, eos = config.bos_token or leading, config.eos_token
    if config == _TokenizerConfig() and END_OF_TEXT in contents:
        eos = END_OF_TEXT
    return replace(
        definition,
        bos_token=bos if bos in contents else None,
        eos_token=eos if eos in contents else None,
        chat_template=config.chat_template,
    )
