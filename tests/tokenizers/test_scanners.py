"""The fast scanners cut every text where the scanners do that define the grammars, at every instruction-set level."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from pyllm import _tokenizers
from tests.tokenizers.oracles import texts

GRAMMARS = ["gpt2", "digits_gpt2", "cl100k", "llama3", "qwen2", "o200k", "none"]
LEVELS = ["scalar", "avx2", "avx512"]
# One character of every class that ASCII has, those of contractions, and a few beyond ASCII.
ASCII = list(" \t\x0b\r\n/'.aAsSlLtT09\x1c\x7f\0")
BEYOND = ["é", "É", "中", "\u0301", "٣", "\u00a0", "\u2028", "ſ", "²", "🤗", "ª", "…"]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _tokenizers.active_isa()
    try:
        _tokenizers.force_isa(request.param)
    except (RuntimeError, ValueError):
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    _tokenizers.force_isa(before)


def check(grammar: str, text: str | bytes) -> None:
    assert _tokenizers.scan_pieces(grammar, text) == _tokenizers.pretokenize(grammar, text), repr(text)


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_every_short_string(level: str, grammar: str) -> None:
    # Behind it enough text that windows decide; "x" and " x" end runs in two ways.
    small = list(" \n\t/'.aAsl0")
    for characters in itertools.product(small, repeat=4):
        text = "".join(characters)
        check(grammar, f"{text}x{'.b' * 40}")


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_random_strings(level: str, grammar: str) -> None:
    source = random.Random(5)
    for round_ in range(1500):
        share = source.choice([0.0, 0.0, 0.02, 0.3])
        pool = source.sample(ASCII, source.randint(2, len(ASCII)))
        length = source.choice([1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300, 700])
        runs = source.random() < 0.3
        parts = [source.choice(BEYOND if source.random() < share else pool) for _ in range(length)]
        if runs:
            parts = [part * source.choice([1, 1, 2, 5, 70]) for part in parts]
        check(grammar, "".join(parts))
        if round_ % 10 == 0:
            check(grammar, bytes(source.choices(range(256), k=length)))


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_words_with_contractions(level: str, grammar: str) -> None:
    source = random.Random(7)
    words = [
        "don't",
        "DON'T",
        "'tis",
        "x's's",
        "we'll",
        "they'Re",
        "'",
        "''s",
        " 's",
        "l'l",
        "camelCase",
        "HTMLParser",
    ]
    words += [
        "\n",
        " \n ",
        "  ",
        ";\n/\n",
        "/",
        "\r\n",
        "1234567",
        "x'ſ",
        "...",
        " ",
        "\t",
        "'ve",
        "'vex",
        "can'tFoo",
    ]
    for _ in range(1500):
        check(grammar, "".join(source.choices(words, k=source.randint(1, 40))))


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_every_text(level: str, grammar: str) -> None:
    for text in texts().values():
        check(grammar, text[:20_000])
