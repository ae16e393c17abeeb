"""What each id is decoded to: the decoder of a tokenizer.json turned into tables, so that decoding only joins bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from pyllm.tokenizers.components import Options, metaspace_options
from pyllm.tokenizers.definition import TokenizerDefinition

# A list, tuple or iterable of int, or an array or tensor of integers.
Ids: TypeAlias = Iterable[int]


def as_ids(ids: Ids) -> list[int] | tuple[int, ...] | np.ndarray:
    """The ids as the C++ core takes them. Arrays and tensors in main memory are not copied.

    Raises TypeError for what is no sequence of ids.
    """
    if isinstance(ids, (list, tuple, np.ndarray)):
        return ids
    if hasattr(ids, "__array__") and hasattr(ids, "tolist"):
        # numpy cannot read a tensor on another device.
        return np.asarray(ids) if getattr(ids, "is_cpu", True) else np.asarray(ids.tolist())
    if isinstance(ids, str):
        raise TypeError("ids: expected a sequence of int, got str")
    return list(ids)


def decoding_tables(definition: TokenizerDefinition) -> tuple[Any, Any]:
    """The bytes of every id (`_tokenizers.Tokens`), and those it has as the first of a text (None: the same).

    Raises ValueError for a decoder that cannot be written so, naming it.
    """
    if definition.prepared is not None:
        return definition.prepared.decoding()
    tokens: Any = definition.tokens
    if not definition.decoders:  # tokenizers joins with spaces
        return tokens.prefixed(b" "), tokens
    first: Any = None
    fused = False
    for step in definition.decoders:
        options = Options(step, "decoder")
        match options.kind:
            case "ByteLevel":
                for name in ("add_prefix_space", "trim_offsets", "use_regex"):
                    options.take(name, bool, True)
            case "Fuse":
                fused = True
            case "ByteFallback":
                tokens = tokens.bytes_of_fallback()
            case "Replace":
                tokens = _replaced(tokens, options)
            case "Strip":
                first = _stripped(tokens, options, fused)
            case "Metaspace":
                tokens, first = _metaspace(tokens, options)
            case "WordPiece":
                tokens, first = _word_piece(tokens, options)
            case "SentencePiece":
                tokens, first = _sentencepiece(tokens, options)
            case _:
                raise options.unknown()
        options.finish()
    return tokens, first


def _replaced(tokens: Any, options: Options) -> Any:
    kind, pattern = options.take_pattern()
    if kind != "String" or not pattern:
        raise ValueError("decoder Replace: only a String that is not empty is supported")
    return tokens.replaced(pattern, options.take("content", str))


def _stripped(tokens: Any, options: Options, fused: bool) -> Any:
    """Strip after Fuse: `start` times the content off the start of the text."""
    content, start, stop = options.take("content", str), options.take("start", int), options.take("stop", int)
    if not fused or stop != 0 or start not in (0, 1):
        raise ValueError(f"decoder Strip with start {start} and stop {stop} is not supported")
    return tokens.stripped(content, False) if start else None


def _metaspace(tokens: Any, options: Options) -> tuple[Any, Any]:
    marker, scheme = metaspace_options(options)
    options.take("split", bool, True)
    if not marker:
        raise ValueError("decoder Metaspace: the replacement is empty")
    first = tokens.replaced(marker, "") if scheme != "never" else None
    return tokens.replaced(marker, " "), first


def _word_piece(tokens: Any, options: Options) -> tuple[Any, Any]:
    prefix, cleans = options.take("prefix", str), options.take("cleanup", bool)
    after_first = tokens.continued_words(prefix)
    return (after_first.cleaned_up(), tokens.cleaned_up()) if cleans else (after_first, tokens)


def _sentencepiece(tokens: Any, options: Options) -> tuple[Any, Any]:
    """sentencepiece's own decoding: markers are spaces, bytes are bytes, unknown has a surface of its own."""
    unknown, surface = options.take("unk_id", (int, type(None))), options.take("unk_surface", bytes)
    strips_one, strips_all = options.take("strip_first", bool), options.take("strip_all", bool)
    plain = tokens.replaced("▁", " ").bytes_of_fallback()
    first = plain.stripped(" ", strips_all) if strips_one else None
    if unknown is None:
        return plain, first
    return plain.with_token(unknown, surface), None if first is None else first.with_token(unknown, surface)
