"""tokenizer.json of the tokenizers package, out; and tokenizer_config.json beside it for transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyllm.tokenizers.byte_alphabet import spell
from pyllm.tokenizers.components import known_pattern
from pyllm.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    BytePairs,
    CharacterPairs,
    Step,
    TokenizerDefinition,
    Unigram,
    WordPiece,
)
from pyllm.tokenizers.files import write_atomically
from pyllm.tokenizers.patterns import PATTERNS
from pyllm.tokenizers.post_processors import Part, read_post_processor


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
            token._asdict() for token in sorted(definition.added_tokens, key=lambda token: token.id)
        ],
        "normalizer": _component(definition.normalizers, "normalizers"),
        "pre_tokenizer": _component(_pre_tokenizers(definition.pre_tokenizers), "pretokenizers"),
        "post_processor": _post_processor(definition, spellings),
        "decoder": _component(definition.decoders, "decoders"),
        "model": _model(definition, spellings, merges),
    }


def _component(steps: Sequence[Step], members: str) -> dict[str, Any] | None:
    """None, the one step, or a Sequence."""
    own = next((step["type"] for step in steps if step["type"] == "SentencePiece"), None)
    if own:
        raise ValueError(f"save: tokenizer.json has no {own} step; a .model file is saved by copying it")
    if len(steps) < 2:
        return dict(steps[0]) if steps else None
    return {"type": "Sequence", members: [dict(step) for step in steps]}


def _model(
    definition: TokenizerDefinition, spellings: Mapping[int, str], merges: np.ndarray
) -> dict[str, Any]:
    model = definition.model
    vocabulary = {spelling: token_id for token_id, spelling in spellings.items()}
    if isinstance(model, WordPiece):
        return {
            "type": "WordPiece",
            "unk_token": spellings[model.unk_id],
            "continuing_subword_prefix": model.prefix,
            "max_input_chars_per_word": model.max_characters,
            "vocab": vocabulary,
        }
    if isinstance(model, Unigram):
        if not model.double_precision or sorted(spellings) != list(range(len(spellings))):
            raise ValueError("save: tokenizer.json cannot hold this Unigram model")
        return {
            "type": "Unigram",
            "unk_id": model.unk_id,
            "vocab": [[spellings[i], float(score)] for i, score in enumerate(model.scores)],
            "byte_fallback": bool(model.byte_ids),
        }
    characters = model if isinstance(model, CharacterPairs) else CharacterPairs(None, fuse_unk=False)
    if merges.size and int(merges.max()) >= len(definition.tokens):
        raise ValueError("save: tokenizer.json cannot hold merges of characters that are no tokens")
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if characters.unk_id is None else spellings[characters.unk_id],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": characters.fuse_unk,
        "byte_fallback": bool(characters.byte_ids),
        "ignore_merges": model.ignore_merges or (isinstance(model, BytePairs) and model.merges is None),
        "vocab": vocabulary,
        "merges": [[spellings[left], spellings[right]] for left, right, _ in merges.tolist()],
    }


def _spellings(definition: TokenizerDefinition) -> dict[int, str]:
    """Added tokens stand in the vocabulary too: tokenizers would number them anew otherwise."""
    byte_level = isinstance(definition.model, BytePairs)
    spellings = {
        i: spell(token) if byte_level else token.decode("utf-8", "replace")
        for i, token in enumerate(definition.tokens)
        if token is not None
    }
    spellings.update({token.id: token.content for token in definition.added_tokens})
    if len(set(spellings.values())) != len(spellings):
        seen: set[str] = set()
        double = next(text for text in spellings.values() if text in seen or seen.add(text))  # type: ignore[func-returns-value]
        raise ValueError(f"save: two ids stand for the token {double!r}, which tokenizer.json cannot hold")
    return spellings


def _pre_tokenizers(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with known patterns spelled out."""
    name = known_pattern(tuple(steps))
    if name is None:
        return tuple(steps)
    by_itself = {**BYTE_LEVEL_DECODER, "use_regex": True}
    if name == "none":
        return (BYTE_LEVEL_DECODER,)
    if name == "gpt2":
        return (by_itself,)
    if name == "smollm":
        return ({"type": "Digits", "individual_digits": True}, by_itself)
    expression = {"Regex": PATTERNS[name].regex}
    split = {"type": "Split", "pattern": expression, "behavior": "Isolated", "invert": False}
    return (split, BYTE_LEVEL_DECODER)


def _post_processor(definition: TokenizerDefinition, spellings: Mapping[int, str]) -> dict[str, Any] | None:
    if definition.post_processors:
        return _component(definition.post_processors, "processors")
    if not definition.prefix_ids and not definition.suffix_ids:
        return dict(BYTE_LEVEL_DECODER) if isinstance(definition.model, BytePairs) else None
    processor = read_post_processor(definition)
    names = {token_id: spellings[token_id] for part in processor.pair for token_id in part.ids}

    def pieces(parts: Sequence[Part]) -> list[dict[str, Any]]:
        result = []
        for text, ids, type_id in parts:
            if text is not None:
                result.append({"Sequence": {"id": "AB"[text], "type_id": type_id}})
            result += [{"SpecialToken": {"id": names[token_id], "type_id": type_id}} for token_id in ids]
        return result

    template = {
        "type": "TemplateProcessing",
        "single": pieces(processor.single),
        "pair": pieces(processor.pair),
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for i, n in names.items()},
    }
    if not isinstance(definition.model, BytePairs):
        return template
    return {"type": "Sequence", "processors": [BYTE_LEVEL_DECODER, template]}


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
