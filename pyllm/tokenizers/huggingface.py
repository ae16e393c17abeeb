"""tokenizer.json of the tokenizers package, in. Whatever is not understood is an error, never guessed.

Truncation and padding settings are ignored: they are no part of a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyllm.tokenizers.byte_alphabet import unspell
from pyllm.tokenizers.components import Options, flatten
from pyllm.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    AddedToken,
    BytePairs,
    CharacterPairs,
    Model,
    TokenizerDefinition,
    Unigram,
    WordPiece,
    byte_ids,
    merge_ids,
    pattern_step,
    tokens_by_id,
)
from pyllm.tokenizers.files import expect, parse_float_in_two_roundings, read_json
from pyllm.tokenizers.patterns import canonical_pattern
from pyllm.tokenizers.post_processors import read_surroundings

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
    document = read_json(path, parse_float_in_two_roundings)
    try:
        definition = _definition(document, pattern)
        beside = _read_config(path.parent) if path.name == "tokenizer.json" else _TokenizerConfig()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _with_config(definition, beside)


def _definition(document: dict[str, Any], pattern: str | None) -> TokenizerDefinition:
    body = expect(document.get("model"), dict, "model")
    kind = body.get("type", "BPE")
    pre_tokenizers = flatten(document.get("pre_tokenizer"), "pretokenizers")
    byte_level = kind == "BPE" and any(step.get("type") == "ByteLevel" for step in pre_tokenizers)
    if pattern:
        if not byte_level:
            raise ValueError("pattern: only byte-level BPE has one")
        pre_tokenizers = (pattern_step(canonical_pattern(pattern)),)
    entries = expect(document.get("added_tokens") or [], list, "added_tokens")
    added = [_added_token(entry) for entry in entries]
    vocabulary = _unigram_vocabulary(body) if kind == "Unigram" else _vocabulary(body)
    model, hidden = _read_model(kind, body, vocabulary, byte_level)
    tokens = _tokens(vocabulary, added, byte_level)
    if isinstance(model, Unigram):
        model = replace(model, scores=np.pad(model.scores, (0, len(tokens) - len(model.scores))))
    around = read_surroundings(document.get("post_processor"))
    decoders = flatten(document.get("decoder"), "decoders")
    if byte_level and any(step.get("type") != "ByteLevel" for step in decoders):
        raise ValueError(
            f"decoder {[step.get('type') for step in decoders]} is not supported for byte-level BPE"
        )
    return TokenizerDefinition(
        tokens=tokens,
        model=model,
        normalizers=flatten(document.get("normalizer"), "normalizers"),
        pre_tokenizers=pre_tokenizers,
        decoders=(BYTE_LEVEL_DECODER,) if byte_level else decoders,
        # Tokens that only added_tokens knows are found before the model sees the text.
        hidden=(*hidden, *(token.id for token in added if token.content not in vocabulary)),
        added_tokens=added,
        prefix_ids=around.prefix,
        suffix_ids=around.suffix,
    )


def _read_model(
    kind: Any, body: dict[str, Any], vocabulary: dict[str, int], byte_level: bool
) -> tuple[Model, tuple[int, ...]]:
    """The model, and the ids that it never gives for text they spell."""
    options = Options({"type": "BPE", **body}, "model")
    options.take("vocab", (dict, list))
    model: Model
    hidden: tuple[int, ...] = ()
    match kind:
        case "BPE":
            merges = merge_ids(options.take("merges", list), vocabulary, "model.merges")
            model = _read_pairs(options, merges, vocabulary, byte_level)
            hidden = model.byte_ids if isinstance(model, CharacterPairs) else ()
        case "Unigram":
            model = _read_unigram(options, body["vocab"], vocabulary)
        case "WordPiece":
            unknown = vocabulary.get(options.take("unk_token", str))
            if unknown is None:
                raise ValueError("model WordPiece: unk_token is not in the vocabulary")
            prefix = options.take("continuing_subword_prefix", str)
            model = WordPiece(unknown, prefix, options.take("max_input_chars_per_word", int))
        case _:
            raise ValueError(f"model type {kind!r} is not supported")
    options.finish()
    return model, hidden


def _read_pairs(
    options: Options, merges: np.ndarray, vocabulary: dict[str, int], byte_level: bool
) -> BytePairs | CharacterPairs:
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
        return BytePairs(merges, ignore_merges)
    return CharacterPairs(
        merges,
        ignore_merges=ignore_merges,
        unk_id=vocabulary.get(unk_token) if unk_token is not None else None,
        fuse_unk=fuse_unk,
        byte_ids=byte_ids(vocabulary) if byte_fallback else (),
    )


def _read_unigram(options: Options, entries: list[Any], vocabulary: dict[str, int]) -> Unigram:
    scores = np.array([float(expect(entry[1], (int, float), "model.vocab")) for entry in entries])
    unk_id = options.take("unk_id", (int, type(None)), None)
    if unk_id is not None and not 0 <= unk_id < len(entries):
        raise ValueError(f"model Unigram: unk_id {unk_id} is not in the vocabulary")
    return Unigram(
        scores,
        (float(scores.min()), float(scores.max())),
        unk_id,
        byte_ids=byte_ids(vocabulary) if options.take("byte_fallback", bool, False) else (),
        double_precision=True,
    )


def _unigram_vocabulary(body: dict[str, Any]) -> dict[str, int]:
    entries = expect(body.get("vocab"), list, "model.vocab")
    vocabulary: dict[str, int] = {}
    for i, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ValueError(f"model.vocab[{i}]: expected [token, score]")
        if vocabulary.setdefault(entry[0], i) != i:
            raise ValueError(f"model.vocab[{i}]: the token {entry[0]!r} occurs twice")
    if not entries:
        raise ValueError("model.vocab: it is empty")
    return vocabulary


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    vocabulary = expect(model.get("vocab"), dict, "model.vocab")
    wrong = next((spelling for spelling, token_id in vocabulary.items() if type(token_id) is not int), None)
    if wrong is not None:
        raise ValueError(f"model.vocab[{wrong!r}]: expected int, got {type(vocabulary[wrong]).__name__}")
    return vocabulary


def _added_token(entry: Any) -> AddedToken:
    fields = expect(entry, dict, "added_tokens")
    content = expect(fields.get("content"), str, "added_tokens: content")
    if not content:
        raise ValueError("added_tokens: content is empty")
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return AddedToken(
        content,
        expect(fields.get("id"), int, f"added_tokens: id of {content!r}"),
        **{
            flag: expect(fields.get(flag, False), bool, f"added_tokens: {flag} of {content!r}")
            for flag in flags
        },
    )


def _tokens(vocabulary: dict[str, int], added: list[AddedToken], byte_level: bool) -> list[bytes | None]:
    numbered: dict[int, bytes] = {}
    contents = {token.content for token in added}
    for spelling, token_id in vocabulary.items():
        if token_id in numbered:
            raise ValueError(f"model.vocab: id {token_id} stands for two tokens")
        verbatim = not byte_level or spelling in contents
        numbered[token_id] = spelling.encode("utf-8", "replace") if verbatim else _bytes_of(spelling)
    for token in added:
        if vocabulary.get(token.content, token.id) != token.id:
            raise ValueError(
                f"added_tokens: {token.content!r} has id {token.id}, but the vocabulary says otherwise"
            )
        if numbered.setdefault(token.id, token.content.encode()) != token.content.encode():
            raise ValueError(f"added_tokens: id {token.id} of {token.content!r} stands for another token too")
    return tokens_by_id(numbered, "model.vocab")


def _bytes_of(spelling: str) -> bytes:
    try:
        return unspell(spelling)
    except ValueError:
        return spelling.encode("utf-8", "replace")  # what tokenizers decodes it to; no text is encoded to it


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
