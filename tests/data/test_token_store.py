from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pyllm.data import TokenStore, open_token_store, split, tokenize
from pyllm.data.cache import cache_folder
from tests.data.bytes_tokenizer import END_OF_TEXT, BytesTokenizer


def store_of(folder: Path, texts: list[str], tokenizer: BytesTokenizer | None = None) -> TokenStore:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        file = data / f"{number:04}.txt"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
    return tokenize([data], tokenizer or BytesTokenizer(), END_OF_TEXT, cache=folder / "cache")


def test_every_document_is_stored_and_ended(tmp_path: Path) -> None:
    texts = ["first", "second <|endoftext|>", "ž" * 40_000]
    store = store_of(tmp_path, texts)
    assert store.tokens.dtype == np.uint16
    assert bytes(store.tokens[: store.ends[0] - 1].astype(np.uint8)) == b"first"
    assert np.flatnonzero(store.tokens == END_OF_TEXT).tolist() == [5, 5 + 21, 5 + 21 + 80_001]
    assert len(store) == 2 + 3
    assert store.starts.tolist() == [0, *store.ends[:-1].tolist()]


def test_a_second_call_opens_the_first_ones_store(tmp_path: Path) -> None:
    tokenizer = BytesTokenizer()
    first = store_of(tmp_path, ["a", "b"], tokenizer)
    again = store_of(tmp_path, ["a", "b"], tokenizer)
    assert tokenizer.encoded == 2
    assert first.digest == again.digest
    assert np.array_equal(first.tokens, again.tokens)
    store_of(tmp_path, ["a", "b"], BytesTokenizer("another"))
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 2
    changed = store_of(tmp_path, ["a", "bb"], tokenizer)
    assert tokenizer.encoded == 4
    assert changed.digest != first.digest


def test_a_failed_or_killed_build_leaves_nothing_that_is_opened(tmp_path: Path) -> None:
    class Failing(BytesTokenizer):
        def encode_batch(self, texts, *, disallowed_special):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store_of(tmp_path, ["a"], Failing())
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []
    (tmp_path / "cache" / "tokens" / ".unfinished-of-a-killed-run").mkdir()
    assert store_of(tmp_path, ["a"]).tokens.tolist() == [97, END_OF_TEXT]


def test_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text"):
        store_of(tmp_path, ["", ""])


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    store_of(tmp_path, ["some text"])
    (folder,) = (tmp_path / "cache" / "tokens").iterdir()
    os.truncate(folder / "tokens.bin", 4)
    with pytest.raises(ValueError, match="damaged"):
        open_token_store(folder)


def test_progress_counts_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    heard: list[int] = []
    tokenize([tmp_path], BytesTokenizer(), END_OF_TEXT, cache=tmp_path / "cache", on_progress=heard.append)
    assert heard == [4]


def test_split_goes_by_text_alone(tmp_path: Path) -> None:
    texts = [f"document {number % 150}" for number in range(200)]
    store = store_of(tmp_path, texts)
    train, validation = split(store, 0.2)
    assert sorted([*train, *validation]) == list(range(200))
    assert 15 < len(validation) < 70
    assert not {texts[i] for i in train} & {texts[i] for i in validation}
    (tmp_path / "more").mkdir()
    more = store_of(tmp_path / "more", [*texts, *(f"new {number}" for number in range(50))])
    assert set(validation) == {piece for piece in split(more, 0.2)[1] if piece < 200}


def test_split_of_little_data(tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    train, validation = split(store_of(tmp_path / "pair", ["one", "two"]), 1e-9)
    assert (len(train), len(validation)) == (1, 1)
    train, validation = split(store_of(tmp_path, ["only"]), 0.5)
    assert (train.tolist(), validation.tolist()) == ([0], [])
    assert len(split(store_of(tmp_path / "pair", ["one", "two"]), 0.0)[1]) == 0
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="validation_fraction"):
            split(store_of(tmp_path, ["only"]), fraction)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("PYLLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "pyllm"
