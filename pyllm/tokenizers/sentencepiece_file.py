"""SentencePiece's *.model files: BPE and Unigram, with the ids of the sentencepiece package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyllm import _tokenizers
from pyllm.tokenizers.definition import (
    NO_ID,
    AddedToken,
    CharacterPairs,
    Model,
    Step,
    TokenizerDefinition,
    Unigram,
    byte_ids,
)

# Numbers of sentencepiece_model.proto, which GGUF files use too.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


def load_sentencepiece(path: Path) -> TokenizerDefinition:
    """Reads a .model file.

    Control pieces become special tokens; each stretch of text between two of them is encoded as sentencepiece encodes a
    sentence. Nothing is put around the ids. Raises ValueError for a damaged file and for models other than BPE and
    Unigram.
    """
    try:
        return _definition(_tokenizers.sentencepiece_fields(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _definition(fields: dict[str, Any]) -> TokenizerDefinition:
    kind = _KINDS.get(fields["model_type"], str(fields["model_type"]))
    if fields["has_denormalizer"]:
        raise ValueError("a denormalizer is not supported")
    pieces: list[bytes] = fields["pieces"]
    types: np.ndarray = fields["types"]
    names = [piece.decode("utf-8", "replace") for piece in pieces]
    controls = [int(i) for i in np.flatnonzero(types == CONTROL)]
    unknown = next((int(i) for i in np.flatnonzero(types == UNKNOWN)), None)
    user_defined = ids_of_type(types, USER_DEFINED)

    def name_of(token_id: int) -> str | None:
        return names[token_id] if token_id in controls else None

    normalizer = {
        "type": "SentencePiece",
        "user_defined": [pieces[i] for i in user_defined],
        **{name: fields[name] for name in _NORMALIZER_FIELDS},
    }
    strips_all = fields["remove_extra_whitespaces"]
    decoder = {
        "type": "SentencePiece",
        "unk_id": unknown,
        "unk_surface": fields["unk_surface"],
        "strip_first": fields["add_dummy_prefix"] or strips_all,
        "strip_all": strips_all,
    }
    return TokenizerDefinition(
        tokens=list(pieces),
        model=sentencepiece_model(kind, names, types, fields["scores"], fields["byte_fallback"]),
        normalizers=(normalizer,),
        decoders=(decoder,),
        hidden=hidden_ids(types),
        added_tokens=[AddedToken(names[i], i) for i in controls if names[i]],
        bos_token=name_of(fields["bos_id"]),
        eos_token=name_of(fields["eos_id"]),
    )


_NORMALIZER_FIELDS = (
    "charsmap",
    "add_dummy_prefix",
    "remove_extra_whitespaces",
    "escape_whitespaces",
    "treat_whitespace_as_suffix",
)


def ids_of_type(types: np.ndarray, kind: int) -> tuple[int, ...]:
    """The ids of the pieces of a type."""
    return tuple(np.flatnonzero(types == kind).tolist())


def hidden_ids(types: np.ndarray) -> tuple[int, ...]:
    """The ids that text never gives by its spelling."""
    return tuple(np.flatnonzero((types != NORMAL) & (types != USER_DEFINED)).tolist())


def sentencepiece_model(
    kind: str, names: list[str], types: np.ndarray, scores: np.ndarray, byte_fallback: bool
) -> Model:
    """The model of pieces with types and scores. Raises ValueError for what is not supported."""
    unknown = next(iter(ids_of_type(types, UNKNOWN)), None)
    bytes_of = byte_ids({names[i]: i for i in ids_of_type(types, BYTE)}.get) if byte_fallback else ()
    if byte_fallback and (not bytes_of or NO_ID in bytes_of):
        raise ValueError("byte_fallback is on, but not every byte has a piece")
    user_defined = ids_of_type(types, USER_DEFINED)
    if kind == "bpe":
        if (types == UNUSED).any():
            raise ValueError("unused pieces in a BPE model are not supported")
        return CharacterPairs(
            None,
            scores=np.asarray(scores, np.float32),
            unk_id=unknown,
            byte_ids=bytes_of,
            user_defined=user_defined,
        )
    if kind == "unigram":
        normal = scores[types == NORMAL]
        if not normal.size:
            raise ValueError("a Unigram model without normal pieces")
        return Unigram(
            np.asarray(scores, np.float64),
            (float(normal.min()), float(normal.max())),
            unknown,
            byte_ids=bytes_of,
            user_defined=user_defined,
        )
    raise ValueError(f"SentencePiece models of type {kind!r} are not supported")


def space_marker_steps(add_prefix: bool) -> tuple[Step, ...]:
    """Normalizers that spell spaces as SentencePiece does."""
    prefix: tuple[Step, ...] = ({"type": "Prepend", "prepend": "▁"},) if add_prefix else ()
    return (*prefix, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})


def space_marker_decoders(strip_first: bool) -> tuple[Step, ...]:
    """Decoders that undo `space_marker_steps`."""
    steps: tuple[Step, ...] = (
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    )
    return (*steps, {"type": "Strip", "content": " ", "start": 1, "stop": 0}) if strip_first else steps
