"""The reader of tokenizer.json's large lists: equal to json and tokenizers on sound files, ValueError on others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import _tokenizers


def split(document: Any) -> tuple[Any, Any, Any, Any]:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    rest, vocabulary, scores, merges = _tokenizers.split_tokenizer_json(text)
    return json.loads(rest), vocabulary, scores, merges


SMALL = {
    "version": "1.0",
    "model": {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1, "ab": 2, "é\n": 3, '"\\': 4, "🤗": 5, "ab🤗": 6},
        "merges": [["a", "b"], ["ab", "🤗"]],
        "dropout": None,
    },
    "decoder": {"type": "Fuse", "vocab": ["x"]},
}
IDS = SMALL["model"]["vocab"]  # type: ignore[index]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 0, 3, 9])
def test_every_way_to_write_it(ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(SMALL, ensure_ascii=ascii_only, indent=indent).encode()
    rest, vocabulary, scores, merges = split(text)
    assert rest == {**SMALL, "model": {**SMALL["model"], "vocab": None, "merges": None}}  # type: ignore[dict-item]
    assert {spelling: vocabulary.get(spelling) for spelling in IDS} == IDS
    assert (len(vocabulary), vocabulary.get("c"), scores) == (7, None, None)
    assert merges.tolist() == [[0, 1, 2], [2, 5, 6]]


def test_merges_as_texts_and_before_the_vocabulary() -> None:
    model = {"merges": ["a b", "ab 🤗"], "vocab": IDS}
    assert split({"model": model})[3].tolist() == [[0, 1, 2], [2, 5, 6]]


def test_the_last_of_equal_spellings_counts() -> None:
    _, vocabulary, _, _ = split(b'{"model": {"vocab": {"a": 0, "b": 1, "a": 2}}}')
    assert vocabulary.get("a") == json.loads('{"a": 0, "b": 1, "a": 2}')["a"] == 2
    assert list(vocabulary.tokens(False, [])) == [None, b"b", b"a"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 9999), max_size=40))
def test_vocabularies_equal_json(vocabulary: dict[str, int]) -> None:
    for ascii_only in (True, False):
        text = json.dumps({"model": {"vocab": vocabulary}}, ensure_ascii=ascii_only).encode()
        _, ours, _, _ = split(text)
        assert {spelling: ours.get(spelling) for spelling in vocabulary} == json.loads(text)["model"]["vocab"]


@st.composite
def written_numbers(draw: st.DrawFn) -> str:
    whole = draw(st.one_of(st.integers(0, 99).map(str), st.integers(0, 10**25).map(str)))
    fraction = draw(st.one_of(st.just(""), st.from_regex(r"\.[0-9]{1,25}", fullmatch=True)))
    exponent = draw(st.one_of(st.just(""), st.from_regex(r"[eE][+-]?[0-9]{1,3}", fullmatch=True)))
    return draw(st.sampled_from(["", "-"])) + whole + fraction + exponent


@settings(max_examples=500, deadline=None)
@given(written_numbers())
def test_scores_are_the_numbers_that_tokenizers_reads(number: str) -> None:
    """Not always the nearest ones: scores that tie have to tie here too."""
    tokenizers = pytest.importorskip("tokenizers")
    model = (
        f'{{"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b", {number}]], "byte_fallback": false}}'
    )
    document = f'{{"version": "1.0", "added_tokens": [], "model": {model}}}'
    try:
        theirs = json.loads(tokenizers.Tokenizer.from_str(document).to_str())["model"]["vocab"][1][1]
    except Exception:  # its own type of exception: a number beyond any double
        with pytest.raises(ValueError, match="range of a double"):
            split(document.encode())
        return
    _, _, scores, _ = split(document.encode())
    assert scores.tolist() == [0.0, theirs]
    assert np.signbit(scores[1]) == np.signbit(theirs)


WRONG = {
    b'{"model": {"vocab": {"a": 01}}}': "leading zero",
    b'{"model": {"vocab": {"a": 1.0}}}': "whole number",
    b'{"model": {"vocab": {"a": 1e3}}}': "whole number",
    b'{"model": {"vocab": {"a": true}}}': "whole number",
    b'{"model": {"vocab": {"a": -1}}}': "ids from 0",
    b'{"model": {"vocab": {"a": 9999999}}}': "ids from 0",
    b'{"model": {"vocab": {"a": 99999999999999999999}}}': "64 bits",
    b'{"model": {"vocab": {"a" 1}}}': "':'",
    b'{"model": {"vocab": {"a": 1,}}}': "a string",
    b'{"model": {"vocab": {"a": 1 "b": 2}}}': "',' or '}'",
    b'{"model": {"vocab": {"a\n": 1}}}': "control character",
    b'{"model": {"vocab": {"a\\x": 1}}}': "known escape",
    b'{"model": {"vocab": {"\\u12g4": 1}}}': "hexadecimal",
    b'{"model": {"vocab": {"\\ud83d": 1}}}': "surrogate",
    b'{"model": {"vocab": {"\\ud83d\\ud83d": 1}}}': "surrogate",
    b'{"model": {"vocab": {"\\udd17": 1}}}': "surrogate",
    b'{"model": {"vocab": {"\xff": 1}}}': "UTF-8",
    b'{"model": {"vocab": {"\xed\xa0\x80": 1}}}': "UTF-8",
    b'{"model": {"vocab": {"\xe4\xb8": 1}}}': "UTF-8",
    b'{"model": {"vocab": {"\xc0\x80": 1}}}': "UTF-8",
    b'{"model": {"vocab": {}, "vocab": {}}}': "second vocab",
    b'{"model": {"merges": [], "merges": []}}': "second merges",
    b'{"model": {}, "model": {}}': "second model",
    b'{"model": {"vocab": [["a"]]}}': "token, score",
    b'{"model": {"vocab": [["a", 1, 2]]}}': "token, score",
    b'{"model": {"vocab": [["a", "1"]]}}': "a number",
    b'{"model": {"vocab": [["a", 1.]]}}': "decimal point",
    b'{"model": {"vocab": [["a", 1e]]}}': "exponent",
    b'{"model": {"vocab": [["a", 1e999]]}}': "range",
    b'{"model": {"vocab": ["a", 1]}}': "an array",
    b'{"model": {"vocab": {"a": 0}, "merges": ["aa"]}}': r"model.merges\[0\]",
    b'{"model": {"vocab": {"a": 0, "aa": 1}, "merges": ["a a", "a  a"]}}': r"model.merges\[1\]",
    b'{"model": {"vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"], ["a"]]}}': r"model.merges\[1\]",
    b'{"model": {"vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"], ["a", "a", "a"]]}}': r"model.merges\[1\]",
    b'{"model": {"vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"], ["b", "a"]]}}': r"model.merges\[1\]",
    b'{"model": {"vocab": {"a": 0}, "merges": [0]}}': "an array",
    b'{"model": {"x": [}}': "a value",
    b'{"x": ' + b"[" * 501 + b"]" * 501 + b"}": "500 arrays",
    b'{"x": 1} {': "end of the file",
    b'{"x": }': "a value",
    b"\xef\xbb\xbf{}": "an object",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_what_is_wrong_is_named_with_its_place(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(text)


def test_cut_documents() -> None:
    text = json.dumps(SMALL).encode()
    for end in range(len(text)):
        with pytest.raises(ValueError, match="expected"):
            split(text[:end])
