"""Vocabularies with tokens far longer than real ones: ids stay exact and time linear, or the file is refused."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from pyllm import Tokenizer
from tests.fuzz.protobuf import Field, write_message

tokenizers = pytest.importorskip("tokenizers")

LONG = 65536
NORMAL, USER_DEFINED, UNIGRAM, BPE = 1, 4, 1, 2


def sentencepiece_file(pieces: list[tuple[str, float]], kind: int = UNIGRAM, last: int = NORMAL) -> bytes:
    """A .model without any normalization; `last` is the type of the last piece."""
    types = [NORMAL] * (len(pieces) - 1) + [last]
    rows = [("<unk>", 0.0, 2), *((*piece, t) for piece, t in zip(pieces, types, strict=True))]
    parts = [
        write_message([Field(1, 2, text.encode()), Field(2, 5, struct.pack("<f", score)), Field(3, 0, t)])
        for text, score, t in rows
    ]
    trainer = write_message([Field(3, 0, kind), Field(40, 0, 0)])
    normalizer = write_message([Field(3, 0, 0), Field(4, 0, 0), Field(5, 0, 1)])
    return write_message(
        [*(Field(1, 2, part) for part in parts), Field(2, 2, trainer), Field(3, 2, normalizer)]
    )


def random_pieces(rng: random.Random) -> list[tuple[str, float]]:
    pieces = {letter: -rng.random() for letter in "ab世"[rng.randrange(2) :]}
    for length in rng.choice(((300,), (2, 3, 257, 700), (2, 5, 1000, 2000), (7900, 30, 3))):
        unit = rng.choice(("a", "ab", "aab", "世"))
        text = (unit * length)[: max(2, length // len(unit.encode()))]
        pieces[text] = -rng.random() * rng.choice((1, length / 3, length))
        if rng.random() < 0.5:
            pieces[text[:7000] + "b"] = -rng.random()
    return list(pieces.items())


@pytest.mark.parametrize("seed", range(12))
def test_ids_of_unigram_with_long_tokens(seed: int, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    rng = random.Random(seed)
    pieces = random_pieces(rng)
    model, document = tmp_path / "x.model", tmp_path / "tokenizer.json"
    model.write_bytes(sentencepiece_file(pieces))
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), *pieces], 0))
    unigram.save(str(document))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    theirs = tokenizers.Tokenizer.from_file(str(document))
    ours = Tokenizer.from_file(model), Tokenizer.from_file(document)
    for _ in range(6):
        parts = rng.choices(("a", "ab", "b", "世", "x", "é"), k=rng.randrange(9))
        text = "".join(part * rng.choice((1, 2, 400, 3000)) for part in parts)
        assert ours[0].encode(text) == processor.encode(text)
        assert ours[1].encode(text) == theirs.encode(text).ids


def test_time_of_unigram_does_not_grow_with_the_token(tmp_path: Path) -> None:
    path = tmp_path / "x.model"
    path.write_bytes(sentencepiece_file([("a", -1.0), ("a" * LONG + "b", -2.0)]))
    tokenizer = Tokenizer.from_file(path)
    begin = time.thread_time()
    assert tokenizer.count("a" * 1_000_000) == 1_000_000
    assert time.thread_time() - begin < 5  # walks over the token would take minutes


def refused_files() -> dict[str, Any]:
    text = "a" * LONG + "b"
    word = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({"[UNK]": 0, "a": 1, f"##{text}": 2}, max_input_chars_per_word=1 << 30)
    )
    added = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
    added.add_tokens([text])
    symbols = [("a", -1.0), ("b", -1.0), (text, 0.0)]
    return {
        "word_piece.json": word.to_str().encode(),
        "added_tokens.json": added.to_str().encode(),
        "unigram_symbol.model": sentencepiece_file(symbols, UNIGRAM, USER_DEFINED),
        "bpe_symbol.model": sentencepiece_file(symbols, BPE, USER_DEFINED),
    }


@pytest.mark.parametrize("name", refused_files())
def test_tokens_that_are_sought_everywhere_are_short(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(refused_files()[name])
    with pytest.raises(ValueError, match=f"{name}: .*at most 2048 bytes, got 655"):
        Tokenizer.from_file(tmp_path / name)
