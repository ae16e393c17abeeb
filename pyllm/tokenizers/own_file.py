"""*.pyllm-tokenizer, our own file form: tables are used where they are mapped, so loading makes next to nothing.

    definition          JSON: everything of a TokenizerDefinition but the lists below
    tokens, added.*     tokens by id; added tokens
    merges | scores     what the model is made of
    model.*, decoding*, added.trie     tables made before; a pickle leaves them out and makes them when it is loaded

The C++ core writes and checks the sections (csrc/tokenizers/sections.h).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from pyllm import _tokenizers
from pyllm.tokenizers.definition import (
    NO_ID,
    AddedToken,
    BytePairs,
    CharacterPairs,
    Model,
    TokenizerDefinition,
    Unigram,
    WordPiece,
    check_id,
)
from pyllm.tokenizers.files import expect, parse_json, write_atomically
from pyllm.tokenizers.patterns import canonical_pattern
from pyllm.tokenizers.post_processors import parse_steps

SUFFIX = ".pyllm-tokenizer"
MAGIC = b"PYLLMTOK"
_MODELS: dict[str, type[Model]] = {
    kind.__name__: kind for kind in (BytePairs, CharacterPairs, Unigram, WordPiece)
}
# What has sections of its own, with the method of SectionReader that reads it.
_ARRAYS = {
    BytePairs: {"merges": "ids"},
    CharacterPairs: {"merges": "ids", "scores": "floats"},
    Unigram: {"scores": "doubles"},
    WordPiece: {},
}
_SECTIONS = ("tokens", "model", "added_tokens", "prepared")
_STEPS = ("normalizers", "pre_tokenizers", "decoders")
_IDS = ("hidden", "prefix_ids", "suffix_ids", "byte_ids", "user_defined")
_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "bos_token": (str, type(None)),
    "eos_token": (str, type(None)),
    "chat_template": (str, dict, type(None)),
    "ignore_merges": bool,
    "fuse_unk": bool,
    "double_precision": bool,
    "unk_id": (int, type(None)),
    "score_range": list,
    "prefix": str,
    "max_characters": int,
}


def is_own_file(path: Path) -> bool:
    """Whether the file starts as ours do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def save_own_file(definition: TokenizerDefinition, encoding: Any, path: Path) -> None:
    """Writes the tokenizer with its tables. encoding: `_tokenizers.Encoding`."""
    write_atomically(path, to_bytes(definition, encoding))


def load_own_file(path: Path) -> TokenizerDefinition:
    """Maps a file that `save_own_file` wrote. Raises ValueError for one that is damaged."""
    try:
        return _definition(_tokenizers.SectionReader.file(str(path)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_bytes(definition: TokenizerDefinition, encoding: Any = None) -> bytes:
    """The file; without `encoding` its small form, without tables."""
    file = _tokenizers.SectionWriter()
    plain = {name: value for name, value in _values(definition).items() if name not in _SECTIONS}
    model = _values(definition.model)
    for name in _ARRAYS[type(definition.model)]:
        if (numbers := model.pop(name)) is not None:
            file.numbers(name, numbers)
    plain["model"] = {"type": type(definition.model).__name__, **model}
    text = json.dumps(plain, default=_spelled, ensure_ascii=False)
    file.text("definition", text.encode())
    file.tokens("tokens", definition.tokens)
    file.added(_tokenizers.AddedTokens(definition.added_tokens))
    if encoding is not None:
        encoding.store(file)
    return file.finish()


def from_bytes(file: bytes) -> TokenizerDefinition:
    """What `to_bytes` gave. Raises ValueError where it is damaged."""
    return _definition(_tokenizers.SectionReader.bytes(file))


def _definition(file: Any) -> TokenizerDefinition:
    try:
        values = parse_json(file.text("definition"))
        model = _model(file, expect(values.pop("model", None), dict, "model"))
        return TokenizerDefinition(
            tokens=file.tokens("tokens"),
            model=model,
            added_tokens=list(map(AddedToken._make, file.added().fields())),
            prepared=file if file.has("decoding.entries") else None,
            **{name: _checked(name, value) for name, value in values.items()},
        )
    except (TypeError, RecursionError) as error:
        raise _unsound(str(error)) from None


def _model(file: Any, options: dict[str, Any]) -> Model:
    kind = _MODELS.get(str(options.pop("type", None)))
    if kind is None:
        raise _unsound("a model of no known type")
    arrays: dict[str, Any] = {
        name: getattr(file, read)(name) if file.has(name) else None for name, read in _ARRAYS[kind].items()
    }
    if arrays.get("merges") is not None:
        if arrays["merges"].size % 3:
            raise _unsound("merges: expected rows of three")
        arrays["merges"] = arrays["merges"].reshape(-1, 3)
    if kind is WordPiece:
        expect(options.get("unk_id"), int, "unk_id")
    return kind(**{name: _checked(name, value) for name, value in options.items()}, **arrays)


def _checked(name: str, value: Any) -> Any:
    """The value as a definition has it. Raises ValueError for one of another type."""
    if name in _STEPS:
        steps = [expect(_read_back(step), dict, name) for step in expect(value, list, name)]
        for step in steps:
            if step.get("type") == "Pattern":
                canonical_pattern(expect(step.get("name"), str, name))
        return tuple(steps)
    if name == "post_processors":
        steps = [expect(step, dict, name) for step in expect(value, list, name)]
        parse_steps(steps)
        return tuple(steps)
    if name in _IDS:
        ids = [expect(token_id, int, name) for token_id in expect(value, list, name)]
        for token_id in ids:
            if name != "byte_ids" or token_id != NO_ID:
                check_id(token_id, name)
        return tuple(ids)
    if name not in _OPTIONS:
        raise _unsound(f"{name!r} is not known")
    expect(value, _OPTIONS[name], name)
    if name == "score_range":
        if len(value) != 2:
            raise _unsound("score_range: expected two numbers")
        return tuple(expect(score, (float, int), name) for score in value)
    if name in ("unk_id", "max_characters") and value is not None:
        check_id(expect(value, int, name), name)
    return value


def _unsound(what: str) -> ValueError:
    return ValueError(f"not a sound tokenizer file: section 'definition': {what}")


def _values(of: TokenizerDefinition | Model) -> dict[str, Any]:
    return {field.name: getattr(of, field.name) for field in fields(of)}


def _spelled(value: Any) -> Any:
    """What JSON has no form for: bytes, mappings, numbers of numpy."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no part of a tokenizer")


def _read_back(value: Any) -> Any:
    """A value of JSON with the bytes that `_spelled` wrote; the steps of a tokenizer are not deep."""
    if isinstance(value, list):
        return [_read_back(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"base64"}:
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (ValueError, TypeError) as error:
            raise _unsound(str(error)) from None
    return {name: _read_back(item) for name, item in value.items()}
