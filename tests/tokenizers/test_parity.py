"""Ids equal tiktoken's and Hugging Face's: on real texts, naughty strings, published vectors and made-up strings."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from tests.assets import asset
from tests.tokenizers.oracles import (
    HUGGINGFACE_FOLDERS,
    NAMES,
    huggingface,
    naughty_strings,
    openai,
    ours,
    reference_ids,
    texts,
)

FAST_CHARACTERS = 5_000


@pytest.mark.parametrize(
    "limit", [FAST_CHARACTERS, pytest.param(None, marks=pytest.mark.slow)], ids=["start", "whole"]
)
@pytest.mark.parametrize("name", NAMES)
def test_ids_of_every_text(name: str, limit: int | None) -> None:
    asset("tinyshakespeare/input.txt")
    tokenizer = ours(name)
    for path, text in texts().items():
        text = text[:limit]
        ids = tokenizer.encode(text, disallowed_special=())
        assert ids == reference_ids(name, text), path
        if name != "qwen3":  # which normalizes
            assert tokenizer.decode(ids) == text, path


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_naughty_strings(name: str) -> None:
    tokenizer = ours(name)
    for text in naughty_strings():
        assert tokenizer.encode(text, disallowed_special=()) == reference_ids(name, text), text


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "llama3_1", "smollm2"])
def test_stored_ids_of_naughty_strings(name: str) -> None:
    expected = json.loads(asset("tokenizer_vectors/blns.expected.json").read_text())["expected"]
    tokenizer = ours(name)
    for text, ids in zip(naughty_strings(), expected, strict=True):
        assert tokenizer.encode(text, allowed_special="all") == ids[name], text


@pytest.mark.parametrize(
    ("vectors", "name"),
    [
        ("gpt-2", "gpt2"),
        ("gpt-2", "ggml-vocab-gpt-2.gguf"),
        ("qwen2", "qwen3"),
        ("deepseek-r1-qwen", "qwen3"),
        ("llama-bpe", "llama3_1"),
    ],
)
def test_published_vectors(vectors: str, name: str) -> None:
    folder = asset("tokenizer_vectors")
    tokenizer = Tokenizer.from_file(folder / name) if name.endswith(".gguf") else ours(name)
    stem = f"ggml-vocab-{vectors}.gguf"
    inputs = (folder / f"{stem}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    outputs = (folder / f"{stem}.out").read_text().splitlines()
    for text, line in zip(inputs, outputs, strict=False):
        assert tokenizer.encode(text, disallowed_special=()) == [int(number) for number in line.split()], text


def test_ids_of_the_wikitext_oracle() -> None:
    oracle = json.loads(asset("reference/smollm2_wikitext2_valid_512.json").read_text())
    text = asset("wikitext2/valid.txt").read_text(encoding="utf-8")
    assert ours("smollm2").encode(text[:8000])[: len(oracle["ids"])] == oracle["ids"]


# What the grammars treat differently: spaces and line ends of several widths, apostrophes, cases, title case, letters
# without case, marks, digits of several kinds, symbols, slashes.
TROUBLE = st.sampled_from(
    [
        *" \t\n\r'/.!aAsStTdDmMlLvVeErR019ſßǅʰª語ה²½Ⅷ٣é🤗",
        *("  ", "\r\n", "\u00a0", "\u2003", "\u0085", "\u2028", "'ll", "'ſ", "\u0301", "\u0303", "\u200d"),
        *("👩\u200d👧", "e\u0301", "\ufffd"),
    ]
)
STRINGS = st.one_of(
    st.lists(TROUBLE, max_size=40).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(max_size=60, alphabet="abcXYZ 0123456789\n.,'\""),
)


@pytest.mark.parametrize("name", NAMES)
@given(text=STRINGS)
@example(text=" jehoslav việcx điềuđó hợpp ektedirler")  # Llama 3 has tokens that merges do not lead to
@example(text="A\u0301BCd'S ABC\u0301's ªA \u0301ABC")
@example(text="x  \n\n  ")
@settings(max_examples=250, deadline=None)
def test_ids_of_made_up_strings(name: str, text: str) -> None:
    tokenizer = ours(name)
    ids = tokenizer.encode(text, disallowed_special=())
    assert ids == reference_ids(name, text)
    if name not in ("qwen3", "smollm2"):  # one normalizes, the other lacks bytes
        assert tokenizer.decode_bytes(ids) == text.encode()


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_surrogates_as_in_tiktoken(text: str) -> None:
    assert ours("cl100k").encode(text, disallowed_special=()) == openai("cl100k").encode(
        text, disallowed_special=()
    )


def test_surrogate_pairs_join_and_lone_ones_are_replaced() -> None:
    assert ours("cl100k").encode("\ud83d\ude00") == ours("cl100k").encode("😀")
    assert ours("cl100k").encode("\ud83d") == [5809]


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_come_back(data: bytes) -> None:
    for name in ("gpt2", "cl100k", "o200k", "llama3_1"):
        assert ours(name).decode_bytes(ours(name).encode(data, disallowed_special=())) == data


def test_bytes_without_token_are_left_out_as_in_tokenizers() -> None:
    """SmolLM2's vocabulary has no token for 21 bytes, 0xF1 among them: the lead of characters from U+40000 on."""
    smollm2 = ours("smollm2")
    assert [byte for byte in range(256) if not smollm2.encode(bytes([byte]))] == [
        *(0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2),
        *range(0xF5, 0x100),
    ]
    assert smollm2.encode(b"\xf1") == []
    assert smollm2.encode(b"a\xf1b") == [81, 82]
    for text in ("a\x04b", "\x06", "a\U00040000b", "\U00040000", "\U00045678x \U0007ffff"):
        assert smollm2.encode(text) == reference_ids("smollm2", text)


@given(STRINGS)
@settings(max_examples=100, deadline=None)
def test_bytes_of_text_encode_like_the_text(text: str) -> None:
    assert ours("qwen3").encode(text.encode(), disallowed_special=()) == ours("qwen3").encode(
        text, disallowed_special=()
    )


@pytest.mark.parametrize("name", [*HUGGINGFACE_FOLDERS, "smollm2"])
@given(pieces=st.data())
@settings(max_examples=60, deadline=None)
def test_added_tokens_in_made_up_strings(name: str, pieces: st.DataObject) -> None:
    tokenizer = ours(name)
    contents = [token.content for token in tokenizer._added]
    text = "".join(pieces.draw(st.lists(st.one_of(st.sampled_from(contents), STRINGS), max_size=8)))
    reference = huggingface(name)
    reference.encode_special_tokens = False
    expected = reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, allowed_special="all") == expected
