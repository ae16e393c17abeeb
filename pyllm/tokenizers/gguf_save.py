"""A tokenizer as the metadata of a GGUF file (keys tokenizer.ggml.* and tokenizer.chat_template)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyllm.tokenizers.byte_alphabet import spell
from pyllm.tokenizers.components import known_pattern
from pyllm.tokenizers.definition import NO_ID, BytePairs, CharacterPairs, TokenizerDefinition, pattern_step
from pyllm.tokenizers.gguf_pretokenizers import ignores_merges, pre_tokenizer_names, pre_tokenizers_of
from pyllm.tokenizers.sentencepiece_file import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

# llama.cpp cuts nothing exactly like cl100k: only whitespace at the very end of a text comes out differently.
_NEAREST = {"gpt4": "llama3"}


def gguf_tokenizer(definition: TokenizerDefinition, merges: np.ndarray, vocab_size: int) -> dict[str, Any]:
    """The keys that llama.cpp and `pyllm.Tokenizer.from_file` read.

    Byte-level BPE becomes the model "gpt2", BPE on characters "llama", whose scores are the ranks of the merges.

    Args:
        merges: (n, 3), ids of left, right and merged, by rank.
        vocab_size: rows of the model's embedding; ids without token become unused ones.

    Raises:
        ValueError: a tokenizer of another kind, or one that cuts text like none of llama.cpp's pretokenizers.
    """
    model = definition.model
    if len(definition.tokens) > vocab_size:
        raise ValueError(f"the tokenizer has {len(definition.tokens)} ids, the model only {vocab_size}")
    if isinstance(model, BytePairs):
        keys = _byte_level(definition, model, merges)
    elif isinstance(model, CharacterPairs):
        keys = _sentencepiece(definition, model, merges)
    else:
        raise ValueError(f"GGUF files of decoders hold no {type(model).__name__} tokenizer")
    spellings = _spellings(definition, vocab_size)
    common: dict[str, Any] = {
        "tokenizer.ggml.tokens": spellings,
        "tokenizer.ggml.token_type": _types(definition, vocab_size),
        "tokenizer.ggml.add_bos_token": bool(definition.prefix_ids),
        "tokenizer.ggml.add_eos_token": bool(definition.suffix_ids),
    }
    for name, token in (("bos", definition.bos_token), ("eos", definition.eos_token)):
        if token is not None:
            common[f"tokenizer.ggml.{name}_token_id"] = spellings.index(token)
    _check_surroundings(definition, common)
    if "tokenizer.ggml.scores" in keys:
        keys["tokenizer.ggml.scores"] = np.pad(
            keys["tokenizer.ggml.scores"], (0, vocab_size - len(definition.tokens))
        )
    return keys | common | _chat_templates(definition.chat_template)


def _byte_level(definition: TokenizerDefinition, model: BytePairs, merges: np.ndarray) -> dict[str, Any]:
    if definition.normalizers:
        kinds = ", ".join(str(step["type"]) for step in definition.normalizers)
        warnings.warn(f"GGUF cannot hold the tokenizer's normalizer ({kinds}): it is left out", stacklevel=2)
    tokens = definition.tokens
    pairs = [f"{spell(tokens[a] or b'')} {spell(tokens[b] or b'')}" for a, b, _ in merges.tolist()]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre(definition, model),
        "tokenizer.ggml.merges": pairs,
    }


def _pre(definition: TokenizerDefinition, model: BytePairs) -> str:
    """llama.cpp's name for how the tokenizer cuts text."""
    pattern = known_pattern(definition.pre_tokenizers)
    if pattern in _NEAREST:
        warnings.warn(
            f"llama.cpp has no pretokenizer {pattern!r}: {_NEAREST[pattern]!r} differs in whitespace at a text's end",
            stacklevel=2,
        )
        pattern = _NEAREST[pattern]
    steps = definition.pre_tokenizers if pattern is None else (pattern_step(pattern),)
    names = [name for name in pre_tokenizer_names() if tuple(pre_tokenizers_of(name)) == tuple(steps)]
    # Where merges are derived from the ids they lead to every token, so that either way gives the same.
    ignoring = model.ignore_merges or model.merges is None
    for name in names:
        if ignores_merges(name) == ignoring:
            return name
    if names and model.merges is None:
        return names[0]
    raise ValueError("the tokenizer cuts text like none of llama.cpp's pretokenizers")


def _sentencepiece(
    definition: TokenizerDefinition, model: CharacterPairs, merges: np.ndarray
) -> dict[str, Any]:
    if not model.byte_ids or NO_ID in model.byte_ids:
        raise ValueError("GGUF holds BPE on characters only with tokens for all bytes")
    scores = model.scores
    if scores is None:
        # llama.cpp merges by the score of what comes out: the rank of the first merge that makes it.
        scores = np.zeros(len(definition.tokens), np.float32)
        merged, first = np.unique(merges[:, 2], return_index=True)
        scores[merged] = -first.astype(np.float32)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": np.asarray(scores, np.float32),
        "tokenizer.ggml.add_space_prefix": _adds_space(definition),
    }


def _adds_space(definition: TokenizerDefinition) -> bool:
    """Whether a space is put before the text; raises ValueError unless spaces are spelled as in SentencePiece."""
    prefix, replaces = False, False
    for step in (*definition.normalizers, *definition.pre_tokenizers):
        kind = step["type"]
        if kind == "Prepend" and step.get("prepend") == "▁":
            prefix = True
        elif kind == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == "▁":
            replaces = True
        elif kind == "Metaspace" and step.get("replacement", "▁") == "▁":
            prefix, replaces = prefix or step.get("prepend_scheme", "always") != "never", True
        elif kind == "SentencePiece" and step.get("escape_whitespaces") and not step.get("charsmap"):
            prefix, replaces = bool(step.get("add_dummy_prefix")), True
        elif kind != "Split" or step.get("pattern") != {"String": " "}:
            raise ValueError(f"GGUF cannot hold the tokenizer's step {kind}")
    if not replaces:
        raise ValueError("GGUF holds BPE on characters only where spaces become '▁'")
    return prefix


def _spellings(definition: TokenizerDefinition, vocab_size: int) -> list[str]:
    byte_level = isinstance(definition.model, BytePairs)
    spellings = [f"[UNUSED{token_id}]" for token_id in range(vocab_size)]
    for token_id, token in enumerate(definition.tokens):
        if token is not None:
            spellings[token_id] = spell(token) if byte_level else token.decode("utf-8", "replace")
    for added in definition.added_tokens:
        # User-defined tokens are looked for in the text as it is, before spaces are spelled otherwise.
        plain = added.content if byte_level or added.special else added.content.replace("▁", " ")
        spellings[added.id] = plain
    return spellings


def _types(definition: TokenizerDefinition, vocab_size: int) -> np.ndarray:
    types = np.full(vocab_size, UNUSED, np.int32)
    present = [token_id for token_id, token in enumerate(definition.tokens) if token is not None]
    types[present] = NORMAL
    model = definition.model
    if isinstance(model, CharacterPairs):
        types[list(model.user_defined)] = USER_DEFINED
        types[list(model.byte_ids)] = BYTE
        if model.unk_id is not None:
            types[model.unk_id] = UNKNOWN
    for added in definition.added_tokens:
        types[added.id] = CONTROL if added.special else USER_DEFINED
    return types


def _check_surroundings(definition: TokenizerDefinition, keys: Mapping[str, Any]) -> None:
    for what, ids, name in (
        ("before", definition.prefix_ids, "bos"),
        ("after", definition.suffix_ids, "eos"),
    ):
        token_id = keys.get(f"tokenizer.ggml.{name}_token_id")
        if ids not in ((), (token_id,)):
            raise ValueError(
                f"GGUF can put only the {name} token {what} a text, the tokenizer puts {list(ids)}"
            )


def _chat_templates(templates: str | Mapping[str, str] | None) -> dict[str, str]:
    if templates is None:
        return {}
    named = {"default": templates} if isinstance(templates, str) else templates
    key = "tokenizer.chat_template"
    return {key if name == "default" else f"{key}.{name}": text for name, text in named.items()}
