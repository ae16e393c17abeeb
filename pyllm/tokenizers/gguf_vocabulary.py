"""The tokenizer inside of a GGUF model file (keys tokenizer.ggml.* and tokenizer.chat_template)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyllm import _tokenizers
from pyllm.checkpoints.gguf import read_gguf
from pyllm.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    AddedToken,
    BytePairs,
    CharacterPairs,
    TokenizerDefinition,
    byte_ids,
    pattern_step,
)
from pyllm.tokenizers.files import expect
from pyllm.tokenizers.gguf_pretokenizers import adds_bos, ignores_merges, pre_tokenizers_of
from pyllm.tokenizers.patterns import canonical_pattern
from pyllm.tokenizers.sentencepiece_file import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    hidden_ids,
    ids_of_type,
    sentencepiece_model,
    space_marker_decoders,
    space_marker_steps,
)
from pyllm.tokenizers.word_piece_file import bert_definition

_CHAT_TEMPLATE = "tokenizer.chat_template"


def load_gguf_vocabulary(path: Path, pattern: str | None = None) -> TokenizerDefinition:
    """Reads the tokenizer of a GGUF file; `pattern` replaces its `tokenizer.ggml.pre`.

    Models: "gpt2" (byte-level BPE), "llama" (SentencePiece BPE), "gemma4" (the same with merges), "t5" (Unigram) and
    "bert" (WordPiece). Raises ValueError (GGUFError for a file that is no sound GGUF) for other models and for an
    unknown `pre`, naming them.
    """
    metadata = read_gguf(path).metadata
    model = metadata.get("tokenizer.ggml.model")
    try:
        if pattern is not None and model != "gpt2":
            raise ValueError("pattern: only byte-level BPE has one")
        if model == "gpt2":
            return _byte_level(metadata, pattern)
        if model in ("llama", "gemma4", "t5"):
            return _sentencepiece(metadata, str(model))
        if model == "bert":
            return _bert(metadata)
        raise ValueError(f"tokenizer.ggml.model {model!r} is not supported")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _byte_level(metadata: Mapping[str, Any], pattern: str | None) -> TokenizerDefinition:
    spellings, types = _pieces(metadata)
    added = _added_tokens(spellings, types)
    pre = metadata.get("tokenizer.ggml.pre")
    vocabulary = _tokenizers.Spellings(spellings)
    steps = (pattern_step(canonical_pattern(pattern)),) if pattern else pre_tokenizers_of(pre)
    definition = TokenizerDefinition(
        tokens=vocabulary.tokens(True, [(token.id, token.content) for token in added]),
        model=BytePairs(_merges(metadata, vocabulary), ignore_merges=ignores_merges(pre)),
        pre_tokenizers=steps,
        decoders=(BYTE_LEVEL_DECODER,),
        added_tokens=added,
    )
    return _with_specials(definition, metadata, spellings, adds_bos(pre), False)


def _sentencepiece(metadata: Mapping[str, Any], kind: str) -> TokenizerDefinition:
    """User-defined pieces are found in the text as it is, as llama.cpp does, and unused ones fill up the vocabulary."""
    names, types = _pieces(metadata)
    added = _added_tokens(names, types)
    prefix = expect(metadata.get("tokenizer.ggml.add_space_prefix", True), bool, "add_space_prefix")
    has_bytes = bool((types == BYTE).any())
    if kind == "gemma4":
        unknown = next(iter(ids_of_type(types, UNKNOWN)), None)
        bytes_of = byte_ids({names[i]: i for i in ids_of_type(types, BYTE)}.get)
        definition = TokenizerDefinition(
            tokens=_tokenizers.Tokens(names),
            model=CharacterPairs(
                _merges(metadata, _tokenizers.Spellings(names)), unk_id=unknown, byte_ids=bytes_of
            ),
        )
    else:
        model = sentencepiece_model(
            "unigram" if kind == "t5" else "bpe",
            names,
            np.where(np.isin(types, (USER_DEFINED, UNUSED)), NORMAL, types),
            _scores(metadata, len(names)),
            has_bytes,
        )
        definition = TokenizerDefinition(tokens=_tokenizers.Tokens(names), model=model)
    spelling = space_marker_steps(prefix)
    if kind == "t5":
        spelling = (_unigram_normalizer(metadata, prefix),)
    definition = replace(
        definition,
        normalizers=spelling,
        decoders=space_marker_decoders(prefix),
        hidden=hidden_ids(types),
        added_tokens=added,
    )
    return _with_specials(definition, metadata, names, kind != "t5", kind == "t5")


def _unigram_normalizer(metadata: Mapping[str, Any], prefix: bool) -> dict[str, Any]:
    charsmap = np.asarray(metadata.get("tokenizer.ggml.precompiled_charsmap", []))
    return {
        "type": "SentencePiece",
        "charsmap": charsmap.astype(np.uint8).tobytes(),
        "add_dummy_prefix": prefix,
        "remove_extra_whitespaces": expect(
            metadata.get("tokenizer.ggml.remove_extra_whitespaces", False), bool, "remove_extra_whitespaces"
        ),
        "escape_whitespaces": True,
        "treat_whitespace_as_suffix": False,
        "user_defined": [],
    }


def _bert(metadata: Mapping[str, Any]) -> TokenizerDefinition:
    """Word starts carry a marker here, where vocab.txt marks the continuations."""
    spellings, types = _pieces(metadata)
    tokens = [
        spelling.removeprefix("▁") if kind != NORMAL or spelling.startswith("▁") else f"##{spelling}"
        for spelling, kind in zip(spellings, types.tolist(), strict=True)
    ]
    return replace(bert_definition(tokens), chat_template=_chat_template(metadata))


def _pieces(metadata: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """The spellings by id and their types."""
    spellings = _strings(metadata, "tokenizer.ggml.tokens")
    ordinary = np.full(len(spellings), NORMAL, dtype=np.int32)
    return spellings, _numbers(metadata, "tokenizer.ggml.token_type", len(spellings), "iu", ordinary)


def _scores(metadata: Mapping[str, Any], count: int) -> np.ndarray:
    return _numbers(metadata, "tokenizer.ggml.scores", count, "iuf")


def _numbers(metadata: Mapping[str, Any], key: str, count: int, kinds: str, default: Any = ()) -> np.ndarray:
    """An array of `count` numbers, of a dtype whose kind is one of numpy's letters in `kinds`."""
    values = np.asarray(metadata.get(key, default))
    if values.shape != (count,):
        raise ValueError(f"{key}: expected {count} numbers, got shape {values.shape}")
    if count and values.dtype.kind not in kinds:
        raise ValueError(f"{key}: expected numbers, got {values.dtype}")
    return values


def _added_tokens(spellings: list[str], types: np.ndarray) -> list[AddedToken]:
    return [
        AddedToken(spelling, i, special=kind == CONTROL)
        for i, (spelling, kind) in enumerate(zip(spellings, types.tolist(), strict=True))
        if kind in (CONTROL, USER_DEFINED) and spelling
    ]


def _merges(metadata: Mapping[str, Any], vocabulary: Any) -> np.ndarray:
    """Spaces are spelled otherwise, so a space can only stand between the two."""
    return vocabulary.merges(_strings(metadata, "tokenizer.ggml.merges"), "tokenizer.ggml.merges")


def _with_specials(
    definition: TokenizerDefinition,
    metadata: Mapping[str, Any],
    spellings: list[str],
    default_bos: bool,
    default_eos: bool,
) -> TokenizerDefinition:
    bos, eos = (_special_id(metadata, name, len(spellings)) for name in ("bos", "eos"))
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", default_bos)
    add_eos = metadata.get("tokenizer.ggml.add_eos_token", default_eos)
    return replace(
        definition,
        prefix_ids=(bos,) if add_bos and bos is not None else (),
        suffix_ids=(eos,) if add_eos and eos is not None else (),
        bos_token=spellings[bos] if bos is not None else None,
        eos_token=spellings[eos] if eos is not None else None,
        chat_template=_chat_template(metadata),
    )


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    return expect(metadata.get(key), list, key)


def _special_id(metadata: Mapping[str, Any], name: str, vocab_size: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in metadata:
        return None
    token_id = expect(metadata[key], int, key)
    if not 0 <= token_id < vocab_size:
        raise ValueError(f"{key}: {token_id} is not an id of the {vocab_size} tokens")
    return token_id


def _chat_template(metadata: Mapping[str, Any]) -> str | dict[str, str] | None:
    template = metadata.get(_CHAT_TEMPLATE)
    named = {
        key[len(_CHAT_TEMPLATE) + 1 :]: expect(value, str, key)
        for key, value in metadata.items()
        if key.startswith(f"{_CHAT_TEMPLATE}.")
    }
    if template is None:
        return named or None
    text = expect(template, str, _CHAT_TEMPLATE)
    return {"default": text, **named} if named else text
