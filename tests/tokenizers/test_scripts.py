"""Texts of forty scripts and kinds of symbols: ids and text equal those of tiktoken, tokenizers and sentencepiece."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.random_texts import SCRIPTS, script_text
from tests.tokenizers.oracles import NAMES, ours, reference_ids
from tests.tokenizers.test_vocabularies import (
    HUGGINGFACE,
    SENTENCEPIECE,
    in_two_forms,
    pair,
    sentencepiece_pair,
)

EACH = pytest.mark.parametrize("each", [2, pytest.param(100, marks=pytest.mark.slow)])


def script_texts(each: int) -> list[str]:
    return [
        script_text(random.Random(f"{script} {i}"), 12, script) for script in SCRIPTS for i in range(each)
    ]


@EACH
@pytest.mark.parametrize("name", NAMES)
def test_byte_level(name: str, each: int) -> None:
    for text in script_texts(each):
        assert ours(name).encode(text, disallowed_special=()) == reference_ids(name, text), text


@EACH
@in_two_forms(list(HUGGINGFACE))
def test_tokenizer_json(name: str, each: int) -> None:
    mine, theirs = pair(name)
    for text in script_texts(each):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert mine.encode(text, allowed_special="all") == ids, text
        assert mine.decode(ids) == theirs.decode(ids, skip_special_tokens=False), text


@EACH
@in_two_forms(list(SENTENCEPIECE))
def test_sentencepiece(name: str, each: int) -> None:
    mine, theirs = sentencepiece_pair(name)
    for text in script_texts(each):
        ids = theirs.encode(text)
        assert mine.encode(text, disallowed_special=()) == ids, text
        assert mine.decode(ids) == theirs.decode(ids), text
