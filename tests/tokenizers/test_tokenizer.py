"""Tokenizer: special tokens, decoding, streaming, batches, copies, worst cases."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from tests.assets import REPOSITORY
from tests.tokenizers.oracles import openai, ours

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    """Trained here, so that these tests need no assets."""
    text = "def add(a, b):\n    return a + b\n\n# Grüße, 世界! 🤗\n" * 50
    return Tokenizer.train([text], 400, special_tokens=[END, "<|end|>"])


def test_special_tokens_follow_tiktoken() -> None:
    tokenizer, reference = ours("cl100k"), openai("cl100k")
    text = f"hi{END}there <|fim_prefix|>{END}"
    with pytest.raises(ValueError, match=r"<\|endoftext\|>"):
        tokenizer.encode(text)
    with pytest.raises(ValueError, match="fim_prefix"):
        tokenizer.encode(text, allowed_special={END})
    with pytest.raises(ValueError, match=r"<\|endoftext\|>"):
        tokenizer.encode(text, allowed_special="all", disallowed_special={END})
    for options in (
        {"allowed_special": "all"},
        {"disallowed_special": ()},
        {"allowed_special": {END}, "disallowed_special": ()},
        {"allowed_special": {"<|fim_prefix|>"}, "disallowed_special": ()},
        {"allowed_special": {END}, "disallowed_special": {"<|endofprompt|>"}},
    ):
        assert tokenizer.encode(text, **options) == reference.encode(text, **options), options
    assert tokenizer.special_tokens == reference._special_tokens
    assert tokenizer.vocab_size == reference.n_vocab


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"allowed_special": "some"}, ValueError),
        ({"allowed_special": {"<|no|>"}}, ValueError),
        ({"disallowed_special": {"<|no|>"}}, ValueError),
        ({"allowed_special": 3}, TypeError),
    ],
)
def test_bad_special_arguments(small: Tokenizer, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        small.encode("text", **options)


def test_text_must_be_str_or_bytes(small: Tokenizer) -> None:
    for wrong in (3, None, ["a"]):
        with pytest.raises(TypeError, match="text"):
            small.encode(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="texts"):
        small.encode_batch("abc")
    with pytest.raises(TypeError, match="text"):
        small.encode_batch(["a", 3])  # type: ignore[list-item]


@given(st.lists(st.text(max_size=30), max_size=8), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_batches_equal_single_texts(texts: list[str], threads: int) -> None:
    tokenizer = Tokenizer.train(["ab ab abc\n" * 9], 270)
    rows = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts, num_threads=threads) == rows
    for text, ids in zip(texts, rows, strict=True):
        array = tokenizer.encode_to_numpy(text)
        assert array.dtype == np.uint32
        assert array.tolist() == ids
        assert tokenizer.count(text) == len(ids)


def test_batch_checks_special_tokens(small: Tokenizer) -> None:
    with pytest.raises(ValueError, match="endoftext"):
        small.encode_batch(["fine", END])
    assert small.encode_batch(["fine", END], allowed_special="all")[1] == [small.eos_token_id]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_offsets_equal_tiktoken(data: st.DataObject) -> None:
    text = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
    ids = ours("cl100k").encode(text, disallowed_special=())
    assert ours("cl100k").decode_with_offsets(ids) == openai("cl100k").decode_with_offsets(ids)


def test_offsets_need_whole_characters(small: Tokenizer) -> None:
    with pytest.raises(UnicodeDecodeError):
        small.decode_with_offsets(small.encode(b"\xf0\x9f"))


@pytest.mark.parametrize("wrong", [[-1], [10_000], [1 << 40], [1 << 80], [1, 2, 1 << 32]])
def test_ids_out_of_range(small: Tokenizer, wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="ids"):
        small.decode(wrong)
    with pytest.raises(ValueError, match="ids"):
        small.stream_decoder().push(wrong[-1])


def test_holes_in_the_ids_have_no_token() -> None:
    with pytest.raises(ValueError, match="100256"):
        ours("cl100k").decode([100256])


def test_ids_may_be_arrays_or_iterators(small: Tokenizer) -> None:
    ids = small.encode("def add(a, b)")
    for form in (np.array(ids), tuple(ids), iter(ids), small.encode_to_numpy("def add(a, b)")):
        assert small.decode(form) == "def add(a, b)"
    for wrong in (["1"], [1.5], 3, "ab", np.array([[1, 2]])):
        with pytest.raises(TypeError):
            small.decode(wrong)  # type: ignore[arg-type]


def test_decode_errors_and_special_tokens(small: Tokenizer) -> None:
    ids = [*small.encode(b"a\xff"), small.special_tokens[END]]
    assert small.decode(ids) == f"a\ufffd{END}"
    assert small.decode(ids, errors="ignore", skip_special_tokens=True) == "a"
    with pytest.raises(UnicodeDecodeError):
        small.decode(ids, errors="strict")


@given(st.lists(st.integers(0, 290), max_size=40))
@settings(max_examples=200, deadline=None)
def test_stream_shows_whole_characters_only(small: Tokenizer, ids: list[int]) -> None:
    stream = small.stream_decoder()
    pieces = [stream.push(token_id) for token_id in ids] + [stream.finish()]
    assert "".join(pieces) == small.decode(ids)


def test_stream_of_text_never_shows_a_replacement(small: Tokenizer) -> None:
    text = "Grüße 世界 🤗👩‍👧 पाठ"
    stream = small.stream_decoder()
    pieces = [stream.push(token_id) for token_id in small.encode(text)]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert stream.finish() == ""
    stream.push(small.encode("🤗")[0])
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_are_equal(small: Tokenizer, clone: Any) -> None:
    other = clone(small)
    text = f"def f():\n  return 世界{END}"
    assert other.encode(text, allowed_special="all") == small.encode(text, allowed_special="all")
    assert (other.eos_token_id, other.special_tokens) == (small.eos_token_id, small.special_tokens)


LETTERS = "".join(chr(0x4E00 + i * 7919 % 20000) for i in range(100_000))
WORST = {
    "one letter": "a" * 1_500_000,
    "capitals": "A" * 1_500_000,
    "spaces": " " * 1_500_000,
    "spaces and a letter": " " * 1_500_000 + "x",
    "newlines": "\n" * 500_000,
    "spaces and newlines": " \n" * 500_000 + "x",
    "carets": "^" * 500_000,
    "digits": "7" * 500_000,
    "marks": "\u0301" * 300_000,
    "marks of many classes": "\u0301\u0323\u0334" * 100_000,
    "capitals, then a mark": ("A" * 1000 + "\u0301") * 500,
    "ideographs": LETTERS * 5,
    "apostrophes": "'" * 500_000,
    "less-than signs": "<|" * 500_000,
}


@pytest.mark.parametrize("kind", WORST)
@pytest.mark.parametrize(
    "name",
    ["o200k", "smollm2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cl100k", "qwen3"))],
)
def test_worst_cases_take_linear_time(name: str, kind: str) -> None:
    tokenizer = ours(name)
    text = WORST[kind]
    begin = time.process_time()
    ids = tokenizer.encode(text, disallowed_special=())
    # Hundreds of times what it takes; quadratic time would be minutes.
    assert time.process_time() - begin < 60
    if name != "qwen3":
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", ["one letter", "spaces", "marks of many classes", "ideographs"])
def test_worst_cases_train(kind: str) -> None:
    text = WORST[kind][:300_000]
    tokenizer = Tokenizer.train([text], 300)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_works_after_a_fork(small: Tokenizer) -> None:
    small.encode_batch(["some text"] * 8, num_threads=2)
    code = "import multiprocessing as m; from pyllm import Tokenizer; t = Tokenizer.train(['ab ab'], 257)\n"
    code += "t.encode_batch(['ab'] * 4, num_threads=2)\n"
    code += "with m.get_context('fork').Pool(1) as p: print(p.map(t.encode, ['ab ab']))\n"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_works_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import pyllm; t = pyllm.Tokenizer.train(['ab ab\\n' * 9], 258, special_tokens=['<s>'])\n"
        "t.chat_template = '{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}'\n"
        "assert t.decode(t.encode('ab')) == 'ab'\n"
        "assert t.apply_chat_template([{'role': 'user', 'content': 'ab'}])\n"
        "import pyllm.tokenizers.gguf_vocabulary\n"
        "assert not [m for m in sys.modules if m.startswith('torch.')]\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_offsets_in_characters_and_bytes() -> None:
    trained = Tokenizer.train(["hello world\n" * 9], 280, special_tokens=["<s>"])
    text = "<s>hé🤗llo"
    ids, characters = trained.encode_with_offsets(text, allowed_special="all")
    again, in_bytes = trained.encode_with_offsets(text, unit="bytes", allowed_special="all")
    assert ids == again == trained.encode(text, allowed_special="all")
    assert characters[0].tolist() == in_bytes[0].tolist() == [0, 3]
    pieces = [text.encode()[begin:end] for begin, end in in_bytes.tolist()]
    assert pieces == [trained.decode_bytes([token_id]) for token_id in ids]
    for (begin, end), piece in zip(characters.tolist(), pieces, strict=True):
        assert piece in text[begin:end].encode()
    empty, none = trained.encode_with_offsets("")
    assert empty == []
    assert none.shape == (0, 2)
    with pytest.raises(ValueError, match="unit"):
        trained.encode_with_offsets("a", unit="words")  # type: ignore[arg-type]
