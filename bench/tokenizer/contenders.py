"""One library with one vocabulary: the quickest calls it has for each task, special tokens taken as plain text."""

from __future__ import annotations

import codecs
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pyllm import Tokenizer

from .vocabularies import Vocabulary

OURS = "pyllm"
THREADS = 2  # where several are asked for
Ids = Any  # a list or an array of token ids


class Unsuitable(Exception):
    """A library that has no way to do this: it is left out without a word."""


@dataclass(frozen=True)
class Contender:
    """None where the library has no such call.

    Attributes:
        encode: a long text; the ids in the form that costs least.
        to_lists: many small texts on one thread; a list of ids for each.
        to_numpy: the same as arrays: one for each text, or one with the borders beside it.
        on_threads: (texts, threads) -> as to_numpy, or as to_lists where it has no other.
        decode: ids, as an array or a list, whichever it likes, to str or bytes. likes_arrays: which.
        stream: ids one by one to text that never shows a broken character.
        count: how many ids a text has.
    """

    encode: Callable[[str], Ids]
    to_lists: Callable[[list[str]], Any] | None = None
    to_numpy: Callable[[list[str]], Any] | None = None
    on_threads: Callable[[list[str], int], Any] | None = None
    decode: Callable[[Ids], str | bytes] | None = None
    likes_arrays: bool = False
    stream: Callable[[Sequence[int]], str] | None = None
    count: Callable[[str], int] | None = None


def load(name: str, vocabulary: Vocabulary) -> Contender:
    """A contender by its name.

    Raises Unsuitable if it does not know such vocabularies and ModuleNotFoundError if it is not installed.
    """
    return _LOADERS[name](vocabulary)


def load_ours(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer.from_file(vocabulary.path(OURS), pattern=vocabulary.pattern)


def limit_threads() -> None:
    """One thread for rivals that would start several unasked, and THREADS where they are asked; before their first
    call."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = str(THREADS)


@contextlib.contextmanager
def tokenizers_threads(threads: int) -> Iterator[None]:
    """The tokenizers package reads this variable at every call."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    try:
        yield
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _ours(vocabulary: Vocabulary) -> Contender:
    tokenizer = load_ours(vocabulary)

    def to_lists(texts: list[str]) -> list[list[int]]:
        return tokenizer.encode_batch(texts, disallowed_special=(), num_threads=1)

    def to_numpy(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return tokenizer.encode_batch_to_numpy(texts, disallowed_special=(), num_threads=1)

    def stream(ids: Sequence[int]) -> str:
        decoder = tokenizer.stream_decoder()
        return "".join([decoder.push(i) for i in ids]) + decoder.finish()

    return Contender(
        encode=lambda text: tokenizer.encode_to_numpy(text, disallowed_special=()),
        to_lists=to_lists,
        to_numpy=to_numpy,
        on_threads=lambda texts, n: tokenizer.encode_batch_to_numpy(
            texts, disallowed_special=(), num_threads=n
        ),
        decode=tokenizer.decode_bytes,
        likes_arrays=True,
        stream=stream,
        count=lambda text: tokenizer.count(text, disallowed_special=()),
    )


def _tiktoken(vocabulary: Vocabulary) -> Contender:
    if "tiktoken" not in vocabulary.names:
        raise Unsuitable
    encoding = _tiktoken_encoding(vocabulary)

    def stream(ids: Sequence[int]) -> str:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        one = encoding.decode_single_token_bytes
        return "".join([decoder.decode(one(i)) for i in ids]) + decoder.decode(b"", final=True)

    return Contender(
        encode=lambda text: encoding.encode_to_numpy(text, disallowed_special=()),
        to_lists=lambda texts: [encoding.encode_ordinary(text) for text in texts],
        to_numpy=lambda texts: [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts],
        on_threads=lambda texts, threads: encoding.encode_ordinary_batch(texts, num_threads=threads),
        decode=encoding.decode_bytes,
        stream=stream,
        count=lambda text: len(encoding.encode_to_numpy(text, disallowed_special=())),
    )


def _tiktoken_encoding(vocabulary: Vocabulary) -> Any:
    """With the ranks of the vocabulary's file: nothing is downloaded."""
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe
    from tiktoken_ext import openai_public

    ranks = load_tiktoken_bpe(str(vocabulary.path("tiktoken")))
    download, openai_public.load_tiktoken_bpe = openai_public.load_tiktoken_bpe, lambda *_, **__: ranks
    try:
        return tiktoken.Encoding(**getattr(openai_public, vocabulary.names["tiktoken"])())
    finally:
        openai_public.load_tiktoken_bpe = download


def _tokenizers(vocabulary: Vocabulary) -> Contender:
    tokenizer = load_tokenizers(vocabulary)

    def stream(ids: Sequence[int]) -> str:
        from tokenizers.decoders import DecodeStream

        decoder = DecodeStream(skip_special_tokens=False)
        return "".join([decoder.step(tokenizer, i) or "" for i in ids])

    def encode_all(texts: list[str]) -> list[list[int]]:
        return [each.ids for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def on_threads(texts: list[str], threads: int) -> list[list[int]]:
        with tokenizers_threads(threads):
            return encode_all(texts)

    return Contender(
        encode=lambda text: encode_all([text])[0],
        to_lists=encode_all,
        on_threads=on_threads,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        stream=stream,
        count=lambda text: len(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0]),
    )


def load_tokenizers(vocabulary: Vocabulary) -> Any:
    """The tokenizers package with the vocabulary; of ranks, which it cannot read, with a file that we saved."""
    import tokenizers

    path = vocabulary.path("tokenizers")
    if path.suffix == ".tiktoken":
        tokenizer = _saved_by_us(tokenizers, vocabulary)
    elif path.suffix == ".json":
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    else:
        raise Unsuitable
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _saved_by_us(tokenizers: Any, vocabulary: Vocabulary) -> Any:
    with tempfile.TemporaryDirectory() as temporary:
        load_ours(vocabulary).save(temporary)
        return tokenizers.Tokenizer.from_file(str(Path(temporary) / "tokenizer.json"))


def _gigatoken(vocabulary: Vocabulary) -> Contender:
    tokenizer = load_gigatoken(vocabulary)

    def on_threads(texts: list[str], threads: int) -> Any:
        return tokenizer.encode_batch(texts, parallel=threads > 1)

    return Contender(
        encode=tokenizer.encode,
        to_lists=lambda texts: tokenizer.encode_batch_list(texts, parallel=False),
        to_numpy=lambda texts: tokenizer.encode_batch(texts, parallel=False),
        on_threads=on_threads,
        decode=tokenizer.decode,
        likes_arrays=True,
        count=lambda text: len(tokenizer.encode(text)),
    )


def load_gigatoken(vocabulary: Vocabulary) -> Any:
    if vocabulary.model not in ("bpe", "sentencepiece_bpe"):
        raise Unsuitable
    from gigatoken import Tokenizer as Gigatoken

    path = vocabulary.path("gigatoken")
    if path.suffix == ".tiktoken":
        return Gigatoken.from_tiktoken(path)
    if path.suffix == ".json":
        return Gigatoken(str(path))
    return Gigatoken.from_sentencepiece(path)


def _quicktok(vocabulary: Vocabulary) -> Contender:
    if "quicktok" not in vocabulary.names:
        raise Unsuitable
    import quicktok

    encoding = quicktok.Tokenizer(vocabulary.names["quicktok"])
    return Contender(
        encode=lambda text: encoding.encode_batch([text], threads=1)[0],
        to_lists=lambda texts: [encoding.encode_ordinary(text) for text in texts],
        to_numpy=lambda texts: encoding.encode_batch(texts, threads=1),
        on_threads=lambda texts, threads: encoding.encode_batch(texts, threads=threads),
        decode=encoding.decode_bytes,
        count=encoding.count,
    )


def _sentencepiece(vocabulary: Vocabulary) -> Contender:
    path = vocabulary.path("sentencepiece")
    if ".model" not in path.name:
        raise Unsuitable
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return Contender(
        encode=processor.encode,
        to_lists=lambda texts: processor.encode(texts, num_threads=1),
        on_threads=lambda texts, threads: processor.encode(texts, num_threads=threads),
        decode=processor.decode,
        count=lambda text: len(processor.encode(text)),
    )


_LOADERS: dict[str, Callable[[Vocabulary], Contender]] = {
    OURS: _ours,
    "tiktoken": _tiktoken,
    "tokenizers": _tokenizers,
    "gigatoken": _gigatoken,
    "quicktok": _quicktok,
    "sentencepiece": _sentencepiece,
}
NAMES = tuple(_LOADERS)


@lru_cache(maxsize=len(_LOADERS))
def loaded(name: str, vocabulary_name: str) -> Contender:
    """A contender that is kept for the next cases of the same vocabulary."""
    from .vocabularies import VOCABULARIES

    return load(name, VOCABULARIES[vocabulary_name])
