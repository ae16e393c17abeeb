"""The Unicode tables against the regular-expression engines of tiktoken and tokenizers: every code point."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import _tokenizers
from tests.tokenizers.oracles import NAMES, ours, reference_ids

CODE_POINTS = [*range(0xD800), *range(0xE000, 0x110000)]
# Where our class changes: the fast form of the tests that walk through every code point with a slow oracle.
BORDERS = sorted(
    {
        c
        for before, after in pairwise(CODE_POINTS)
        if _tokenizers.character_class(before) != _tokenizers.character_class(after)
        for c in (before, after)
    }
)
both_forms = pytest.mark.parametrize(
    "code_points",
    [pytest.param(BORDERS, id="borders"), pytest.param(CODE_POINTS, id="all", marks=pytest.mark.slow)],
)
# Numbers of CharacterClass in csrc/tokenizers/character_class.h.
OTHER, WORD, UPPER, LOWER, LETTER, MARK, DIGIT, NUMBER, SPACE, NEWLINE = range(10)
EXPRESSIONS = {
    r"[\p{Lu}\p{Lt}]": {UPPER},
    r"\p{Ll}": {LOWER},
    r"[\p{Lm}\p{Lo}]": {LETTER},
    r"\p{M}": {MARK},
    r"[\p{Nd}\p{Nl}]": {DIGIT},
    r"\p{N}": {DIGIT, NUMBER},
    r"\s": {SPACE, NEWLINE},
    r"[\r\n]": {NEWLINE},
    r"\w": {WORD, UPPER, LOWER, LETTER, MARK, DIGIT},
}


def ours_in(classes: set[int], code_points: list[int] = CODE_POINTS) -> str:
    return "".join(chr(c) for c in code_points if _tokenizers.character_class(c) in classes)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_classes_equal_tiktoken(expression: str) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("classes", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    # tiktoken drops what the expression does not match.
    matched = encoding.decode(encoding.encode("".join(map(chr, CODE_POINTS)), disallowed_special=()))
    assert ours_in(EXPRESSIONS[expression]) == matched


@both_forms
@pytest.mark.parametrize("expression", [e for e in EXPRESSIONS if e != r"\w"])
def test_classes_equal_tokenizers(expression: str, code_points: list[int]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    remove = tokenizers.normalizers.Replace(tokenizers.Regex(expression), "")
    everything = "".join(map(chr, code_points))
    kept = set(remove.normalize_str(everything))
    assert ours_in(EXPRESSIONS[expression], code_points) == "".join(c for c in everything if c not in kept)


def hugging_face_single_word() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    result = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    result.add_tokens([tokenizers.AddedToken("@@", single_word=True, normalized=False)])
    return result


@both_forms
def test_word_characters_equal_tokenizers(code_points: list[int]) -> None:
    reference = hugging_face_single_word()
    word = set(ours_in(EXPRESSIONS[r"\w"]))
    step = 50_000
    for start in range(0, len(code_points), step):
        characters = [chr(c) for c in code_points[start : start + step] if chr(c) != "@"]
        encoded = reference.encode("".join(f" {c}@@ " for c in characters))
        starts = {begin for (begin, _), token in zip(encoded.offsets, encoded.ids, strict=True) if token == 1}
        for i, character in enumerate(characters):
            assert (5 * i + 2 in starts) == (character not in word), hex(ord(character))


@pytest.mark.parametrize("end", [0x400, pytest.param(0x30000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_contractions_of_every_character(name: str, end: int) -> None:
    # (?i:'s) also takes U+017F; no other character must slip in.
    step = min(end, 0x2000)
    for start in range(0, end, step):
        text = "".join(
            f"x'{chr(c)} 'l{chr(c)} " for c in range(start, start + step) if not 0xD800 <= c < 0xE000
        )
        assert ours(name).encode(text, disallowed_special=()) == reference_ids(name, text)


def unstable(character: str) -> bool:
    return unicodedata.combining(character) != 0 or unicodedata.normalize("NFD", character) != character


@pytest.mark.parametrize(
    "code_points",
    [
        pytest.param([c for c in CODE_POINTS if unstable(chr(c))], id="unstable"),
        pytest.param(CODE_POINTS, id="all", marks=pytest.mark.slow),
    ],
)
def test_nfc_equals_tokenizers_for_every_character(code_points: list[int]) -> None:
    nfc = pytest.importorskip("tokenizers").normalizers.NFC()
    for c in code_points:
        decomposed = unicodedata.normalize("NFD", chr(c))
        texts = (
            {f"a{chr(c)}\u0323\u0334", f"a\u0301{chr(c)}", decomposed} if decomposed != chr(c) else {chr(c)}
        )
        for text in texts:
            assert _tokenizers.normalize_nfc(text).decode() == nfc.normalize_str(text), hex(c)


MARKS = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c))]
COMPOSING = "aeiouAEIOUsS" + "각가ㄱᄀ하ᅡᆨᆫ" + "กิ้า" + "क़" + "ΑΩι" + "\u0344\u1f82\u2126\ufb1d"


@given(
    st.text(
        st.one_of(
            st.sampled_from(MARKS), st.sampled_from(COMPOSING), st.characters(exclude_categories=["Cs"])
        ),
        max_size=24,
    )
)
@settings(max_examples=600, deadline=None)
def test_nfc_equals_tokenizers(text: str) -> None:
    nfc = pytest.importorskip("tokenizers").normalizers.NFC()
    assert _tokenizers.normalize_nfc(text).decode() == nfc.normalize_str(text)


def test_nfc_leaves_bytes_that_are_not_text() -> None:
    assert _tokenizers.normalize_nfc(b"e\xcc\x81\xff\xcc\x81\xcc") == b"\xc3\xa9\xff\xcc\x81\xcc"
