"""Added tokens with every flag, against the tokenizers package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer

tokenizers = pytest.importorskip("tokenizers")
FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
CONTENTS = ["<x>", "<xy>", "x>", "ab", "<|e|>", "éa", "ae\u0301", " <s>", "世"]


def document(added: list[dict[str, Any]], normalizer: str | None) -> dict[str, Any]:
    """A byte-level tokenizer.json without merges."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 256 + i, **token} for i, token in enumerate(added)],
        "normalizer": {"type": normalizer} if normalizer else None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


TOKENS = st.lists(
    st.fixed_dictionaries({"content": st.sampled_from(CONTENTS), **dict.fromkeys(FLAGS, st.booleans())}),
    min_size=1,
    max_size=4,
    unique_by=lambda token: token["content"],
)
TEXTS = st.lists(
    st.sampled_from([*CONTENTS, " ", "\n", "\u3000", "a", "_", "!", "e", "\u0301", "²"]), max_size=10
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("added")


@given(added=TOKENS, parts=TEXTS, normalizer=st.sampled_from([None, "NFC"]))
@settings(max_examples=200, deadline=None)
def test_flags_equal_tokenizers(
    tmp_path_factory: pytest.TempPathFactory,
    added: list[dict[str, Any]],
    parts: list[str],
    normalizer: str | None,
) -> None:
    folder = tmp_path_factory.mktemp("added")
    text = "".join(parts)
    content = json.dumps(document(added, normalizer))
    (folder / "tokenizer.json").write_text(content)
    reference = tokenizers.Tokenizer.from_str(content)
    expected = reference.encode(text, add_special_tokens=False).ids
    assert Tokenizer.from_file(folder).encode(text, allowed_special="all") == expected


def test_the_longest_token_wins(tmp_path: Path) -> None:
    added = [
        {"content": content, "special": True, **dict.fromkeys(FLAGS[1:], False)} for content in ("<x", "<x>")
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document(added, None)))
    tokenizer = Tokenizer.from_file(tmp_path)
    assert tokenizer.encode("<x><x", allowed_special="all") == [257, 256]
    # With the longer one as plain text the shorter one is found.
    assert tokenizer.encode("<x>", allowed_special={"<x"}, disallowed_special=())[0] == 256
    with pytest.raises(ValueError, match="<x>"):
        tokenizer.encode("<x>")


def test_many_added_tokens_load_and_match_quickly(tmp_path: Path) -> None:
    added = [
        {"content": f"<extra_{i}>", "special": False, **dict.fromkeys(FLAGS[1:], False)}
        for i in range(20_000)
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document(added, None)))
    tokenizer = Tokenizer.from_file(tmp_path)
    assert tokenizer.encode("<extra_19999>" * 1000) == [256 + 19999] * 1000
