"""Every GGUF vocabulary in llama-cpp-python's source archive: 15 have lists of ids there; the other four are compared
with llama.cpp's own ids, and with tokenizers and sentencepiece, made of the lists in the file.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyllm import Tokenizer
from tests.assets import asset
from tests.fuzz.protobuf import Field, write_message
from tests.tokenizers.oracles import naughty_strings, texts

_FOLDER = "llama-cpp-python/vendor/llama.cpp/models"
PUBLISHED = [
    *("bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe"),
    *("llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
]
# llama.cpp's expressions for files that name no `pre`.
_DEFAULT_PRE = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    "[0-9][0-9][0-9]",
)
_USER_DEFINED = 4


def gguf_path(vocabulary: str) -> Path:
    return asset(f"{_FOLDER}/ggml-vocab-{vocabulary}.gguf")


def golden_texts() -> list[str]:
    return (
        gguf_path("llama-bpe")
        .with_name("ggml-vocab-llama-bpe.gguf.inp")
        .read_bytes()
        .decode()
        .split("\n__ggml_vocab_test__\n")
    )


def some_texts() -> list[str]:
    return [*golden_texts(), *naughty_strings(), *(text[:2000] for text in texts().values())]


@pytest.mark.parametrize("vocabulary", PUBLISHED)
def test_published_ids(vocabulary: str) -> None:
    path = gguf_path(vocabulary)
    ours = Tokenizer.from_file(path)
    inputs = path.with_name(f"{path.name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    outputs = path.with_name(f"{path.name}.out").read_text().split("\n")
    assert len(inputs) >= 40
    for text, line in zip(inputs, outputs, strict=False):
        assert ours.encode(text, disallowed_special=()) == [int(number) for number in line.split()], text


@lru_cache(maxsize=1)
def lists(vocabulary: str) -> dict[str, Any]:
    """The lists of the file, read by the package `gguf`."""
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(gguf_path(vocabulary)).fields
    prefix = "tokenizer.ggml."
    return {
        key.removeprefix(prefix): field.contents() for key, field in fields.items() if key.startswith(prefix)
    }


def byte_level(vocabulary: str) -> Callable[[str], list[int]]:
    """By tokenizers."""
    tokenizers = pytest.importorskip("tokenizers")
    of = lists(vocabulary)
    merges = [tuple(merge.split(" ")) for merge in of["merges"]]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate(of["tokens"])}, merges))
    splits = [tokenizers.pre_tokenizers.Split(tokenizers.Regex(e), "isolated") for e in _DEFAULT_PRE]
    last = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([*splits, last])
    rows = zip(of["tokens"], of["token_type"], strict=True)
    theirs.add_tokens(
        [tokenizers.AddedToken(t, normalized=False) for t, kind in rows if kind == _USER_DEFINED]
    )
    return lambda text: theirs.encode(text, add_special_tokens=False).ids


def sentencepiece_model(vocabulary: str) -> Callable[[str], list[int]]:
    """By sentencepiece."""
    sentencepiece = pytest.importorskip("sentencepiece")
    of = lists(vocabulary)
    pieces = [
        write_message([Field(1, 2, token.encode()), Field(2, 5, struct.pack("<f", score)), Field(3, 0, kind)])
        for token, score, kind in zip(of["tokens"], of["scores"], of["token_type"], strict=True)
    ]
    unigram = of["model"] == "t5"
    has_bytes = 6 in of["token_type"]
    unknown = of["token_type"].index(2)
    trainer = [Field(3, 0, 1 if unigram else 2), Field(35, 0, int(has_bytes)), Field(40, 0, unknown)]
    charsmap = bytes(np.asarray(of.get("precompiled_charsmap", []), np.int64).astype(np.uint8))
    squeezes = int(of.get("remove_extra_whitespaces", False))
    normalizer = [Field(2, 2, charsmap), Field(3, 0, 1), Field(4, 0, squeezes), Field(5, 0, 1)]
    message = [Field(1, 2, piece) for piece in pieces]
    message += [Field(2, 2, write_message(trainer)), Field(3, 2, write_message(normalizer))]
    theirs = sentencepiece.SentencePieceProcessor(model_proto=write_message(message))
    return lambda text: theirs.encode(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocabulary", "oracle"),
    [
        ("aquila", byte_level),
        ("gpt-neox", byte_level),
        ("baichuan", sentencepiece_model),
        ("nomic-bert-moe", sentencepiece_model),
    ],
)
def test_vocabularies_without_published_ids(vocabulary: str, oracle: Any) -> None:
    ours, theirs = Tokenizer.from_file(gguf_path(vocabulary)), oracle(vocabulary)
    for text in some_texts():
        assert ours.encode(text, disallowed_special=()) == theirs(text), text


# sha256 of llama.cpp's own ids (llama-cpp-python 0.3.36, llama_tokenize, no special tokens) of the 47 golden texts, as
# json.dumps writes the rows.
LLAMA_CPP = {
    "aquila": "b6bf9802b5a77553dc817994b3180d5b43e6bd8f01a020ddf7b4fee9f3a740d5",
    "baichuan": "c7fbde94523f821f58ca9681e331c96c1523e789b8d6c8dc45ee6c0e3029a469",
    "gpt-neox": "c690af6e09060c98a5bb2db1c874cd21fdd8f909dafe469f6bc9bb875ae72fbc",
    "nomic-bert-moe": "ee06a2f797dc8979083cb90b6f290f2703f4a4572319da6d88cdfcbe30e69529",
}


@pytest.mark.parametrize("vocabulary", LLAMA_CPP)
def test_ids_equal_llama_cpp(vocabulary: str) -> None:
    ours = Tokenizer.from_file(gguf_path(vocabulary))
    rows = [ours.encode(text, disallowed_special=()) for text in golden_texts()]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == LLAMA_CPP[vocabulary]


@pytest.mark.parametrize(
    ("key", "value"), [("token_type", ["a", "b"]), ("scores", ["a", "b"]), ("scores", [0.0])]
)
def test_lists_that_are_no_numbers_are_named(tmp_path: Path, key: str, value: list[Any]) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    writer.add_string("tokenizer.ggml.model", "llama")
    lists: dict[str, list[Any]] = {"tokens": ["a", "b"], "token_type": [1, 1], "scores": [0.0, -1.0]}
    for name, entries in {**lists, key: value}.items():
        writer.add_array(f"tokenizer.ggml.{name}", entries)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=f"tokenizer.ggml.{key}: expected"):
        Tokenizer.from_file(tmp_path / "vocabulary.gguf")
