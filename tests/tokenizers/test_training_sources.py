"""What the trainer reads, how much memory it takes, what it reports and refuses."""

from __future__ import annotations

import gc
import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyllm import Tokenizer
from tests.tokenizers.test_training import our_model, standard_library


def test_file_kinds_give_the_same_merges(tmp_path: Path) -> None:
    documents = [text.replace("\r", "") for text in standard_library(300_000)]
    (tmp_path / "folder").mkdir()
    for i, text in enumerate(documents):
        (tmp_path / "folder" / f"{i:04}.py").write_text(text, newline="")
    jsonl = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    (tmp_path / "all.jsonl").write_text(jsonl)
    (tmp_path / "all.jsonl.gz").write_bytes(gzip.compress(jsonl.encode()))
    expected = our_model(Tokenizer.train(iter(documents), 1000), tmp_path)
    half = len(documents) // 2
    sources: list[Any] = [
        str(tmp_path / "folder"),
        [tmp_path / "all.jsonl"],
        tmp_path / "all.jsonl.gz",
        [text.encode() for text in documents],
        sorted((tmp_path / "folder").iterdir()),
        [*documents[:half], *sorted((tmp_path / "folder").iterdir())[half:]],
        dict.fromkeys(documents, 1),
    ]
    for source in sources:
        assert our_model(Tokenizer.train(source, 1000), tmp_path) == expected


LONG = {
    "code": lambda: "".join(standard_library(3_000_000)),
    "japanese": lambda: "吾輩は猫である。名前はまだ無い。\nどこで生れたか" * 1_000,
    "no safe cut": lambda: "1 2\n 3 " * 400_000,
    "one cut at the end": lambda: "1 2\n 3 " * 400_000 + "!\nabc abc",
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("tie_break", ["hf", "first_seen"])
def test_a_long_document_gives_the_same_merges_however_it_is_cut(
    kind: str, tie_break: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = LONG[kind]()
    (tmp_path / "long.txt").write_text(text, newline="")
    (tmp_path / "long.txt.gz").write_bytes(gzip.compress(text.encode(), 1))
    monkeypatch.setattr("pyllm.tokenizers.training._BATCH_BYTES", 700_001)  # cuts characters of three bytes
    models = [
        our_model(Tokenizer.train(source, 600, tie_break=tie_break, num_threads=threads), tmp_path)
        for source in ([text], tmp_path / "long.txt", tmp_path / "long.txt.gz")
        for threads in (1, 3)
    ]
    assert all(model == models[0] for model in models)


def test_special_tokens_with_line_ends_are_never_cut(tmp_path: Path) -> None:
    text = "!\nab abab " * 150_000
    (tmp_path / "long.txt").write_text(text)
    special = ["!\nab"]
    expected = Tokenizer.train([" abab "], 258, special_tokens=special, pattern="gpt2")
    for source in ([text], tmp_path / "long.txt"):
        trained = Tokenizer.train(source, 258, special_tokens=special, pattern="gpt2")
        assert our_model(trained, tmp_path) == our_model(expected, tmp_path)


class Text(str):
    """Knows how many of its kind there are."""

    alive = 0

    def __new__(cls, text: str) -> Text:
        cls.alive += 1
        return super().__new__(cls, text)

    def __del__(self) -> None:
        Text.alive -= 1


def test_iterators_are_streamed() -> None:
    most = 0

    def texts() -> Iterator[str]:
        nonlocal most
        for i in range(60):
            yield Text(f"text {i} " * 100_000)
            most = max(most, Text.alive)

    Tokenizer.train(texts(), 300)
    gc.collect()
    assert most < 30
    assert Text.alive == 0


def test_names_need_not_be_text(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")
    Path(name).write_text("ab ab")
    assert Tokenizer.train(Path(name), 257).decode_bytes([256]) == b"ab"


def random_words(count: int) -> str:
    draw = random.Random(1)
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(count))


@pytest.mark.parametrize("kind", ["pieces", "file without cuts", "gzip without cuts", "merging"])
def test_memory_has_a_limit(kind: str, tmp_path: Path) -> None:
    source: Any = [random_words(100_000)]
    limit = 4 << 20
    if kind == "merging":
        limit = (
            19 << 19
        )  # the table of pieces takes 9 MB while it grows, and then 6, to which 4 of words come
    if kind == "file without cuts":
        source = tmp_path / "long.txt"
        source.write_text(" " * (10 << 20))
    if kind == "gzip without cuts":
        source = tmp_path / "long.txt.gz"
        source.write_bytes(gzip.compress(b" " * (10 << 20)))
    with pytest.raises(MemoryError, match=r"max_memory: .* Raise max_memory, train on fewer texts"):
        Tokenizer.train(source, 1_000, max_memory=limit, num_threads=1)
    # A piece of spaces is not trained on: its tokens would be millions of spaces long.
    Tokenizer.train(source, 256 if "cuts" in kind else 1_000, max_memory=200 << 20, num_threads=1)


def test_progress_is_reported_and_may_stop_the_training() -> None:
    heard: list[tuple[str, int, int]] = []
    texts = standard_library(200_000)
    Tokenizer.train(texts, 1200, on_progress=lambda *event: heard.append(event))
    assert {phase for phase, _, _ in heard} == {"reading", "merging"}
    assert ("reading", sum(len(text.encode()) for text in texts), 0) in heard
    assert heard[-1] == ("merging", 1200, 1200)

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "merging":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tokenizer.train(standard_library(200_000), 1200, on_progress=stop)


def test_progress_counts_the_bytes_of_files(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("one line\n" * 10)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"one line\n" * 10))
    heard: list[int] = []

    def hear(phase: str, done: int, total: int) -> None:
        if phase == "reading":
            heard.append(done)

    Tokenizer.train(tmp_path, 257, on_progress=hear)
    assert heard == sorted(heard)
    assert heard[-1] == 270


@pytest.mark.parametrize("name", ["latin.txt", "latin.txt.gz"])
@pytest.mark.parametrize("end", [b"n\xe9!", "é".encode()[:1]])
def test_undecodable_text_names_file_and_byte(name: str, end: bytes, tmp_path: Path) -> None:
    content = b"some text\n" * 300_000 + end
    (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith("gz") else content)
    bad = 3_000_000 + end.index(end[-2:-1] if len(end) > 1 else end)
    with pytest.raises(ValueError, match=rf"{name}' is not UTF-8 text \(byte {bad}\)"):
        Tokenizer.train(tmp_path / name, 300)


def test_broken_gzip_names_the_file(tmp_path: Path) -> None:
    for name, content in (("a.txt.gz", b"text " * 9000), ("b.jsonl.gz", b'{"text": "x"}\n' * 9000)):
        (tmp_path / name).write_bytes(gzip.compress(content)[:-9])
        with pytest.raises(ValueError, match=f"{name}' is not a complete gzip file"):
            Tokenizer.train(tmp_path / name, 300)


@pytest.mark.parametrize(
    ("source", "arguments", "error", "message"),
    [
        (["text"], {"vocab_size": 255}, ValueError, "vocab_size"),
        (["text"], {"vocab_size": 256, "special_tokens": ["<s>"]}, ValueError, "vocab_size"),
        (["text"], {"vocab_size": 300.0}, TypeError, "vocab_size"),
        (["text"], {"vocab_size": 300, "pattern": "gpt5"}, ValueError, "gpt5"),
        (["text"], {"vocab_size": 300, "algorithm": "unigram"}, ValueError, "algorithm"),
        (["text"], {"vocab_size": 300, "tie_break": "random"}, ValueError, "tie_break"),
        (["text"], {"vocab_size": 300, "special_tokens": "<s>"}, TypeError, "special_tokens"),
        (["text"], {"vocab_size": 300, "special_tokens": ["<s>", "<s>"]}, ValueError, "special_tokens"),
        (["text"], {"vocab_size": 300, "num_threads": 0}, ValueError, "num_threads"),
        ([], {"vocab_size": 300}, ValueError, "files_or_texts"),
        ([""], {"vocab_size": 300}, ValueError, "files_or_texts"),
        ([3], {"vocab_size": 300}, TypeError, "files_or_texts"),
        ({"text": -1}, {"vocab_size": 300}, ValueError, "files_or_texts"),
        ({"text": 1.5}, {"vocab_size": 300}, TypeError, "files_or_texts"),
        ({3: 1}, {"vocab_size": 300}, TypeError, "files_or_texts"),
        (["text"], {"vocab_size": 1 << 24}, ValueError, "vocab_size"),
        (["text"], {"vocab_size": 300, "max_memory": 1000}, ValueError, "max_memory"),
        (["text"], {"vocab_size": 300, "max_memory": 1e9}, TypeError, "max_memory"),
        (["no/such/file.txt"], {"vocab_size": 300}, FileNotFoundError, "no/such/file.txt"),
        ("no_such_folder", {"vocab_size": 300}, FileNotFoundError, "no_such_folder"),
        ([Path("no/such/file")], {"vocab_size": 300}, FileNotFoundError, "no/such/file"),
    ],
)
def test_bad_arguments(source: Any, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Tokenizer.train(source, **arguments)
