"""A few seconds of each random case about tokenizers (`make fuzz` runs them for longer), and what they have found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyllm import Tokenizer
from tests.fuzz import differential, tiktoken_differential, tokenizer_files
from tests.fuzz.harness import run_case

tokenizers = pytest.importorskip("tokenizers")

CASES_EACH = 60


@pytest.mark.parametrize("name", tokenizer_files.CASES)
def test_damaged_files_are_loaded_or_refused(name: str, tmp_path: Path) -> None:
    for seed in range(CASES_EACH):
        run_case(name, tokenizer_files.CASES[name], seed, tmp_path / "case")


@pytest.mark.parametrize("name", differential.CASES)
def test_random_tokenizers_and_texts_equal_the_original(name: str, tmp_path: Path) -> None:
    for seed in range(CASES_EACH // 2):
        run_case(name, differential.CASES[name], seed, tmp_path / "case")


@pytest.mark.parametrize("name", tiktoken_differential.CASES)
def test_random_ranks_and_texts_equal_tiktoken(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    for seed in range(CASES_EACH // 2):
        run_case(name, tiktoken_differential.CASES[name], seed, tmp_path / "case")


def assert_same_ids(theirs: Any, folder: Path, *texts: str) -> None:
    theirs.save(str(folder / "x.json"))
    ours = Tokenizer.from_file(folder / "x.json")
    for text in texts:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all") == expected, text
        assert ours.encode_with_offsets(text, allowed_special="all")[0] == expected, text


def word_level_bytes(*merges: tuple[str, str], ignore_merges: bool = False) -> Any:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(left + right for left, right in merges)]
    model = tokenizers.models.BPE(
        {token: i for i, token in enumerate(tokens)}, list(merges), ignore_merges=ignore_merges
    )
    return tokenizers.Tokenizer(model)


def test_word_characters_of_expressions_are_those_of_oniguruma(tmp_path: Path) -> None:
    """²³¹¼½¾ are in, the two joiners are not; the step Whitespace has Rust's, which differ."""
    texts = ("a½b ²\u200cc\u200d", "x³\u200d.", "¹¼¾")
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\w+"), "isolated")
    for step in (split, tokenizers.pre_tokenizers.Whitespace()):
        theirs = word_level_bytes()
        theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [step, tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
        )
        assert_same_ids(theirs, tmp_path, *texts)


def test_added_tokens_are_not_in_the_model(tmp_path: Path) -> None:
    """A token that only added_tokens knows is not found by whole pieces when the search for it has left it."""
    theirs = word_level_bytes(ignore_merges=True)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    theirs.add_tokens(
        [tokenizers.AddedToken(" a", single_word=True), tokenizers.AddedToken("xy", single_word=True)]
    )
    assert_same_ids(theirs, tmp_path, "a", " a", "xyz", "xy", " ab")


def test_unigram_with_tokens_beyond_its_vocabulary(tmp_path: Path) -> None:
    theirs = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0), ("ab", -1.5)], 0))
    theirs.add_special_tokens(["<mask>"])
    assert_same_ids(theirs, tmp_path, "ab<mask>ba", "x<unk>y", "<unk>", "a<unk>b<unk>")


def test_unigram_spells_bytes_and_the_unknown_token_in_the_text(tmp_path: Path) -> None:
    pieces = [("<unk>", -9.0), *((f"<0x{byte:02X}>", -3.0) for byte in range(256)), ("a", -1.0)]
    theirs = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0, byte_fallback=True))
    assert_same_ids(theirs, tmp_path, "<0x41>", "a<0x0A>é", "<unk>", "é<unk>é", "a<unk>a")


def test_unknown_characters_without_token_let_their_neighbours_merge(tmp_path: Path) -> None:
    model = tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2, "▁": 3, "a▁": 4}, [("a", "b"), ("a", "▁")])
    assert_same_ids(tokenizers.Tokenizer(model), tmp_path, "a?b", "?ab", "ab?", "a?▁b", "??", "b?a?b?")
    ours = Tokenizer.from_file(tmp_path / "x.json")
    assert ours.encode_with_offsets("?a?bb?")[1].tolist() == [[0, 4], [4, 6]]


@pytest.mark.parametrize("unigram", [False, True])
def test_text_with_a_byte_that_has_no_token_is_unknown(unigram: bool, tmp_path: Path) -> None:
    """The whole of it: one character for BPE, all unknown neighbours for Unigram."""
    tokens = ["<unk>", "a", "b", *(f"<0x{byte:02X}>" for byte in "é🤗".encode())]
    if unigram:
        model = tokenizers.models.Unigram(
            [(token, -1.0 - i) for i, token in enumerate(tokens)], 0, byte_fallback=True
        )
    else:
        ids = {token: i for i, token in enumerate(tokens)}
        model = tokenizers.models.BPE(ids, [], unk_token="<unk>", byte_fallback=True)
    texts = ("aéb", "a🤗b", "é🤗", "aèb", "éè🤗", "è🤗aé", "世é", "<0xC3>")
    assert_same_ids(tokenizers.Tokenizer(model), tmp_path, *texts)


@pytest.mark.parametrize("rstrip", [False, True])
@pytest.mark.parametrize("lstrip", [False, True])
def test_added_whitespace_beside_tokens_that_take_whitespace(
    lstrip: bool, rstrip: bool, tmp_path: Path
) -> None:
    """A token with lstrip in whitespace that rstrip took is none (where tokenizers does not panic over it)."""
    theirs = tokenizers.Tokenizer(
        tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0), ("\n", -2.0), (" ", -3.0)], 0)
    )
    breaks = tokenizers.AddedToken("\n\n", lstrip=lstrip, rstrip=rstrip, normalized=False)
    theirs.add_tokens([breaks, tokenizers.AddedToken("<x>", rstrip=True, normalized=False)])
    texts = ["\n\n" * 3, "a\n\n\n\n\nb", "\n\n \n\n", "<x> \n\n", "<x>\n\na", "\n\n<x>"]
    if rstrip or not lstrip:
        texts += ["<x>\n\n a", "<x> \n\n\n\na"]
    assert_same_ids(theirs, tmp_path, *texts)
