"""Byte-level BPE over made-up vocabularies whose merges come in any order, against tokenizers and tiktoken."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from pyllm import Tokenizer
from pyllm.tokenizers.byte_alphabet import spell


def random_merges(random_numbers: random.Random, disorder: float) -> list[tuple[str, str]]:
    """Merges over three letters; `disorder` is how far one may stand from its place after those that make its parts."""
    tokens = ["a", "b", "c"]
    merges: list[tuple[str, str]] = []
    for _ in range(random_numbers.randrange(2, 14)):
        pair = (random_numbers.choice(tokens), random_numbers.choice(tokens))
        if pair in merges or len("".join(pair)) > 12:
            continue
        merges.append(pair)
        if "".join(pair) not in tokens:
            tokens.append("".join(pair))
    places = [i + random_numbers.uniform(-1, 1) * disorder * len(merges) for i in range(len(merges))]
    return [merge for _, merge in sorted(zip(places, merges, strict=True))]


def random_texts(random_numbers: random.Random, count: int) -> list[str]:
    return ["".join(random_numbers.choices("abc", k=random_numbers.randrange(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("disorder", [0.0, 0.15, 1.0])
def test_merges_in_any_order_equal_huggingface(disorder: float, tmp_path: Path) -> None:
    random_numbers = random.Random(f"merges {disorder}")
    for _ in range(150):
        merges = random_merges(random_numbers, disorder)
        letters = [spell(bytes([byte])) for byte in range(256)]
        names = [*letters, *(left + right for left, right in merges)]
        vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
        theirs = tokenizers.Tokenizer(BPE(vocabulary, merges))
        theirs.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
        path = tmp_path / "tokenizer.json"
        path.write_text(theirs.to_str())
        ours = Tokenizer.from_file(path)
        for text in random_texts(random_numbers, 40):
            assert ours.encode(text) == theirs.encode(text).ids, (merges, text)


def test_ranks_in_any_order_equal_tiktoken(tmp_path: Path) -> None:
    random_numbers = random.Random("ranks")
    for _ in range(150):
        tokens = {text.encode() for text in random_texts(random_numbers, 12) if 1 < len(text) < 8}
        tokens |= {left + right for left in (b"a", b"b", b"c") for right in (b"a", b"b")}
        ranked = sorted(tokens, key=lambda token: (len(token) * random_numbers.random(), token))
        ranks = {token: i for i, token in enumerate([*(bytes([i]) for i in range(256)), *ranked])}
        path = tmp_path / "made_up.tiktoken"
        path.write_bytes(b"".join(encoded_rank(token, rank) for token, rank in ranks.items()))
        ours = Tokenizer.from_file(path, pattern="none")
        theirs = tiktoken.Encoding("made_up", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={})
        for text in random_texts(random_numbers, 40):
            assert ours.encode(text) == theirs.encode(text), (json.dumps([t.decode() for t in ranked]), text)


def encoded_rank(token: bytes, rank: int) -> bytes:
    return base64.b64encode(token) + b" %d\n" % rank
