"""What each id is decoded to: the decoder of a tokenizer.json turned into tables, so that decoding only joins bytes."""

from __future__ import annotations

import re

from pyllm.tokenizers.components import Options, metaspace_options
from pyllm.tokenizers.definition import TokenizerDefinition

_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")
# What WordPiece's clean-up does to each token.
_CLEAN_UP = {
    b" .": b".",
    b" ?": b"?",
    b" !": b"!",
    b" ,": b",",
    b" ' ": b"'",
    b" n't": b"n't",
    b" 'm": b"'m",
    b" do not": b" don't",
    b" 's": b"'s",
    b" 've": b"'ve",
    b" 're": b"'re",
}


def decoding_tables(definition: TokenizerDefinition) -> tuple[list[bytes | None], list[bytes] | None]:
    """The bytes of every id (None: no token), and those it has as the first of a text, if that makes a difference.

    Raises ValueError for a decoder that cannot be written so, naming it.
    """
    tokens = definition.tokens
    if not definition.decoders:  # tokenizers joins with spaces
        return [None if t is None else b" " + t for t in tokens], [t or b"" for t in tokens]
    first: list[bytes] | None = None
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
                tokens = [None if t is None else _byte_of(t) for t in tokens]
            case "Replace":
                kind, pattern = options.take_pattern()
                if kind != "String":
                    raise ValueError("decoder Replace: only a String is supported")
                old, new = pattern.encode(), options.take("content", str).encode()
                tokens = [None if t is None else t.replace(old, new) for t in tokens]
            case "Strip":
                first = _stripped(tokens, options, fused)
            case "Metaspace":
                marker, scheme = metaspace_options(options)
                options.take("split", bool, True)
                spelled = tokens
                tokens = [None if t is None else t.replace(marker.encode(), b" ") for t in spelled]
                if scheme != "never":
                    first = [(t or b"").replace(marker.encode(), b"") for t in spelled]
            case "WordPiece":
                tokens, first = _word_piece(tokens, options)
            case "SentencePiece":
                tokens, first = _sentencepiece(tokens, options)
            case _:
                raise options.unknown()
        options.finish()
    return tokens, first


def _byte_of(token: bytes) -> bytes:
    match = _BYTE.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token


def _stripped(tokens: list[bytes | None], options: Options, fused: bool) -> list[bytes]:
    """Strip after Fuse: `start` times the content off the start of the text."""
    content, start, stop = options.take("content", str), options.take("start", int), options.take("stop", int)
    if not fused or stop != 0 or start not in (0, 1):
        raise ValueError(f"decoder Strip with start {start} and stop {stop} is not supported")
    return [(t or b"").removeprefix(content.encode()) if start else t or b"" for t in tokens]


def _word_piece(tokens: list[bytes | None], options: Options) -> tuple[list[bytes | None], list[bytes]]:
    prefix, cleans = options.take("prefix", str).encode(), options.take("cleanup", bool)

    def clean(token: bytes) -> bytes:
        for old, new in _CLEAN_UP.items() if cleans else ():
            token = token.replace(old, new)
        return token

    def after_first(token: bytes) -> bytes:
        return clean(token.removeprefix(prefix) if token.startswith(prefix) else b" " + token)

    return [None if t is None else after_first(t) for t in tokens], [clean(t or b"") for t in tokens]


def _sentencepiece(
    tokens: list[bytes | None], options: Options
) -> tuple[list[bytes | None], list[bytes] | None]:
    """sentencepiece's own decoding: markers are spaces, bytes are bytes, unknown has a surface of its own."""
    unknown, surface = options.take("unk_id", (int, type(None))), options.take("unk_surface", bytes)
    strips_one, strips_all = options.take("strip_first", bool), options.take("strip_all", bool)
    plain = [None if t is None else _byte_of(t.replace("▁".encode(), b" ")) for t in tokens]
    if unknown is not None:
        plain[unknown] = surface
    if not strips_one:
        return plain, None
    return plain, [
        t if i == unknown else t.lstrip(b" ") if strips_all else t.removeprefix(b" ")
        for i, t in enumerate(t or b"" for t in plain)
    ]
