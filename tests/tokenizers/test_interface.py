"""What people switch by: tiktoken's and tokenizers' names, every form of input and output, threads and forks."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from tests.tokenizers.oracles import huggingface, openai, ours

TEXT = "def add(a, b):\n    return a + b  # Grüße, 世界! 🤗\n"


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train([TEXT * 50], 400, special_tokens=["<|endoftext|>", "<pad>"])


def test_every_form_of_text_gives_the_same_ids(small: Tokenizer) -> None:
    raw = TEXT.encode()
    ids = small.encode(TEXT)
    array = np.frombuffer(raw, np.uint8)
    forms: list[Any] = [raw, bytearray(raw), memoryview(raw), array, np.repeat(array, 2)[::2], np.str_(TEXT)]
    for form in forms:
        assert small.encode(form) == ids
        assert small.count(form) == len(ids)
        assert small.encode_to_numpy(form).tolist() == ids
        assert small.encode_with_offsets(form)[1].tolist() == small.encode_with_offsets(TEXT)[1].tolist()
    assert small.encode_batch(forms) == [ids] * len(forms)
    for wrong in (np.zeros(3, np.int32), np.zeros((2, 2), np.uint8), memoryview(np.zeros(3, np.int16))):
        with pytest.raises(TypeError, match="text"):
            small.encode(wrong)


def test_batches_of_every_kind(small: Tokenizer) -> None:
    texts = ["a", "", TEXT, "b" * 100]
    rows = [small.encode(text) for text in texts]
    for batch in (
        texts,
        tuple(texts),
        iter(texts),
        (text for text in texts),
        np.array(texts),
        dict.fromkeys(texts),
    ):
        assert small.encode_batch(batch, num_threads=2) == rows
    ids, borders = small.encode_batch_to_numpy(texts, num_threads=2)
    assert (ids.dtype, borders.dtype) == (np.uint32, np.int64)
    assert [ids[a:b].tolist() for a, b in pairwise(borders)] == rows
    empty, border = small.encode_batch_to_numpy([])
    assert (empty.shape, border.tolist()) == ((0,), [0])
    with pytest.raises(ValueError, match="endoftext"):
        small.encode_batch_to_numpy(["<|endoftext|>"])
    for wrong in (TEXT, TEXT.encode(), bytearray(b"a"), 3, None):
        with pytest.raises(TypeError, match="texts"):
            small.encode_batch_to_numpy(wrong)  # type: ignore[arg-type]
    assert small.decode_batch(rows) == texts
    assert small.decode_bytes_batch(rows) == [text.encode() for text in texts]


def test_arrays_and_tensors_share_the_memory_of_the_ids(
    small: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    arrays = []
    encode = Tokenizer.encode_to_numpy

    def remember(self: Tokenizer, text: Any, **options: Any) -> np.ndarray:
        arrays.append(encode(self, text, **options))
        return arrays[-1]

    monkeypatch.setattr(Tokenizer, "encode_to_numpy", remember)
    tensor = small.encode_to_torch(TEXT)
    assert tensor.dtype == torch.int32
    assert tensor.tolist() == small.encode(TEXT)
    assert tensor.data_ptr() == arrays[0].ctypes.data
    assert not arrays[0].flags.owndata  # it shows what the C++ core filled
    for array in small.encode_batch_to_numpy([TEXT, "a"]):
        assert not array.flags.owndata


def test_flat_batches_have_special_tokens_around_each() -> None:
    bert = ours("llama3_1")
    texts = ["one", "", "two three"]
    ids, borders = bert.encode_batch_to_numpy(texts, add_special_tokens=True)
    rows = bert.encode_batch(texts, add_special_tokens=True)
    assert [ids[a:b].tolist() for a, b in pairwise(borders)] == rows


@pytest.mark.parametrize("name", ["gpt2", "cl100k"])
def test_names_of_tiktoken(name: str) -> None:
    mine, theirs = ours(name), openai(name)
    assert mine.n_vocab == theirs.n_vocab
    assert mine.max_token_value == theirs.max_token_value
    assert mine.eot_token == theirs.eot_token
    assert mine.special_tokens_set == theirs.special_tokens_set
    assert mine.token_byte_values() == theirs.token_byte_values()
    for token in (0, 255, 1000, 30000, theirs.eot_token):
        assert mine.decode_single_token_bytes(token) == theirs.decode_single_token_bytes(token)
        assert mine.encode_single_token(mine.decode_single_token_bytes(token)) == token
        assert mine.is_special_token(token) == theirs.is_special_token(token)
    assert mine.encode_ordinary("a<|endoftext|>") == theirs.encode_ordinary("a<|endoftext|>")
    assert mine.decode_tokens_bytes([1, 2]) == theirs.decode_tokens_bytes([1, 2])
    for wrong in (10**6, -1):
        with pytest.raises(KeyError):
            mine.decode_single_token_bytes(wrong)
    with pytest.raises(KeyError):
        mine.encode_single_token("no such token at all")


@pytest.mark.parametrize("name", ["qwen3", "llama3_1"])
def test_names_of_tokenizers(name: str) -> None:
    mine, theirs = ours(name), huggingface(name)
    assert mine.get_vocab() == theirs.get_vocab(with_added_tokens=True)
    assert mine.get_vocab_size() == theirs.get_vocab_size()
    for token in (0, 220, 5000, mine.vocab_size - 1, 10**7):
        assert mine.id_to_token(token) == theirs.id_to_token(token)
    assert mine.token_to_id("\u0120the") == theirs.token_to_id("\u0120the")
    assert mine.token_to_id("no such token") is None


PREFIXES = [
    "hello fanta",
    "hello ",
    "\n\n",
    "a  ",
    "don'",
    "x = 1",
    "<|endoftext|>",
    "é".encode()[:1].decode("latin-1"),
]


@pytest.mark.parametrize("name", ["gpt2", pytest.param("cl100k", marks=pytest.mark.slow)])
@given(st.sampled_from(PREFIXES) | st.text(st.sampled_from("ab \n1'é"), min_size=1, max_size=7))
@settings(max_examples=25, deadline=None)
def test_unstable_equals_tiktoken(name: str, text: str) -> None:
    stable, found = ours(name).encode_with_unstable(text, allowed_special="all")
    expected, completions = openai(name).encode_with_unstable(text, allowed_special="all")
    assert stable == expected
    assert found == sorted(map(list, completions))
    assert all(ours(name).decode_bytes(stable + rest).startswith(text.encode()) for rest in found)


def test_unstable_after_special_tokens_and_surrogates() -> None:
    tokenizer = ours("cl100k")
    assert tokenizer.encode_with_unstable("a<|endoftext|>", allowed_special="all") == ([64, 100257], [])
    assert tokenizer.encode_with_unstable("") == ([], [])
    assert tokenizer.encode_with_unstable("x\ud83d") == tokenizer.encode_with_unstable("x\ufffd")
    with pytest.raises(ValueError, match="encode_with_unstable"):
        ours("qwen3").encode_with_unstable("a")


def test_other_threads_run_while_texts_are_encoded(small: Tokenizer) -> None:
    """With the interpreter's lock held, the counter would stand still for the whole call."""
    text, counted = TEXT * 40_000, 0
    stop = threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            counted += 1
            time.sleep(0)  # hands the lock back

    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        before = counted
        small.encode_to_numpy(text)
        during = counted - before
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert during > 100


def test_threads_share_a_tokenizer(small: Tokenizer) -> None:
    texts = [TEXT * i for i in range(1, 20)]
    expected = [small.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for rows in pool.map(lambda _: small.encode_batch(texts, num_threads=3), range(40)):
            assert rows == expected


def _encode_in_child(job: tuple[Tokenizer, str]) -> list[int]:
    return job[0].encode_batch([job[1]] * 4, num_threads=2)[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_after_threads(small: Tokenizer, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    small.encode_batch([TEXT] * 64, num_threads=4)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_encode_in_child, [(small, TEXT)] * 4) == [small.encode(TEXT)] * 4


def test_pickles_by_content(small: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(small))
    assert copy.encode_plus(TEXT).ids.tolist() == small.encode(TEXT)
    assert copy.get_vocab() == small.get_vocab()
    assert copy.pad_token_id == small.pad_token_id == small.special_tokens["<pad>"]
