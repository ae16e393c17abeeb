"""tokenizer.json of the tokenizers package, out; and tokenizer_config.json beside it for transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pyllm.tokenizers.byte_alphabet import spell
from pyllm.tokenizers.definition import TokenizerDefinition
from pyllm.tokenizers.files import write_atomically
from pyllm.tokenizers.patterns import PATTERNS

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def save_tokenizer(definition: TokenizerDefinition, merges: np.ndarray, path: Path) -> None:
    """Writes `path`, if it ends in .json, or else tokenizer.json into the folder `path`.

    A file named tokenizer.json gets a tokenizer_config.json beside it, with bos, eos and chat template. `merges` is
    the (n, 3) list by rank, whether the definition has one or derives it.
    """
    file = path if path.suffix == ".json" else path / "tokenizer.json"
    write_atomically(file, json.dumps(_document(definition, merges), ensure_ascii=False, indent=2))
    if file.name == "tokenizer.json":
        config = json.dumps(_config(definition), ensure_ascii=False, indent=2)
        write_atomically(file.parent / "tokenizer_config.json", config + "\n")


def _document(definition: TokenizerDefinition, merges: np.ndarray) -> dict[str, Any]:
    spellings = _spellings(definition)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            asdict(token) for token in sorted(definition.added_tokens, key=lambda token: token.id)
        ],
        "normalizer": {"type": "NFC"} if definition.nfc else None,
        "pre_tokenizer": _pre_tokenizer(definition.pattern),
        "post_processor": _post_processor(definition, spellings),
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": definition.ignore_merges or definition.merges is None,
            "vocab": {spelling: token_id for token_id, spelling in spellings.items()},
            "merges": [[spellings[left], spellings[right]] for left, right, _ in merges.tolist()],
        },
    }


def _spellings(definition: TokenizerDefinition) -> dict[int, str]:
    """Added tokens stand in the vocabulary too: tokenizers would number them anew otherwise."""
    spellings = {i: spell(token) for i, token in enumerate(definition.tokens) if token is not None}
    spellings.update({token.id: token.content for token in definition.added_tokens})
    if len(set(spellings.values())) != len(spellings):
        seen: set[str] = set()
        double = next(text for text in spellings.values() if text in seen or seen.add(text))  # type: ignore[func-returns-value]
        raise ValueError(f"save: two ids stand for the token {double!r}, which tokenizer.json cannot hold")
    return spellings


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    if pattern == "none":
        return _BYTE_LEVEL
    by_itself = {**_BYTE_LEVEL, "use_regex": True}
    if pattern == "gpt2":
        return by_itself
    if pattern == "smollm":
        return {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, by_itself],
        }
    expression = {"Regex": PATTERNS[pattern].regex}
    split = {"type": "Split", "pattern": expression, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]}


def _post_processor(definition: TokenizerDefinition, spellings: Mapping[int, str]) -> dict[str, Any]:
    if not definition.prefix_ids and not definition.suffix_ids:
        return _BYTE_LEVEL
    names = {token_id: spellings[token_id] for token_id in (*definition.prefix_ids, *definition.suffix_ids)}

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        def special(token_id: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": names[token_id], "type_id": type_id}}

        middle = {"Sequence": {"id": sequence, "type_id": type_id}}
        return [*map(special, definition.prefix_ids), middle, *map(special, definition.suffix_ids)]

    template = {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for i, n in names.items()},
    }
    return {"type": "Sequence", "processors": [_BYTE_LEVEL, template]}


def _config(definition: TokenizerDefinition) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": definition.bos_token,
        "eos_token": definition.eos_token,
        "clean_up_tokenization_spaces": False,
    }
    template = definition.chat_template
    if isinstance(template, Mapping):
        config["chat_template"] = [{"name": name, "template": text} for name, text in template.items()]
    elif template is not None:
        config["chat_template"] = template
    return config
