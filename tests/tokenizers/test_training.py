"""The trainer against the tokenizers package's, and against the plain definition."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from pyllm.data import standard_library_files
from pyllm.tokenizers.patterns import PATTERNS
from tests.assets import asset

END = "<|endoftext|>"


def huggingface_merges(texts: list[str], vocab_size: int, pattern: str) -> dict[str, Any]:
    """Vocabulary and merges by BpeTrainer with the byte-level alphabet."""
    tokenizers = pytest.importorskip("tokenizers")
    pre = tokenizers.pre_tokenizers
    reference = tokenizers.Tokenizer(tokenizers.models.BPE())
    expression = PATTERNS[pattern].regex
    steps = [pre.Split(tokenizers.Regex(expression), "isolated")] if expression else []
    byte_level = pre.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
    reference.pre_tokenizer = pre.Sequence([*steps, byte_level])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    reference.train_from_iterator(texts, trainer)
    return json.loads(reference.to_str())["model"]


def our_model(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    tokenizer.save(folder / "trained.json")
    return json.loads((folder / "trained.json").read_text())["model"]


def assert_equal_models(texts: list[str], vocab_size: int, pattern: str, folder: Path) -> None:
    trained = Tokenizer.train(iter(texts), vocab_size, pattern=pattern, special_tokens=[END])
    ours, theirs = our_model(trained, folder), huggingface_merges(texts, vocab_size, pattern)
    assert ours["merges"] == [list(merge) for merge in theirs["merges"]]
    assert ours["vocab"] == theirs["vocab"]


def standard_library(limit: int) -> list[str]:
    texts, size = [], 0
    for file in standard_library_files():
        try:
            texts.append(file.read_bytes().decode())
        except UnicodeDecodeError:
            continue
        size += len(texts[-1])
        if size > limit:
            break
    return texts


@pytest.mark.parametrize("pattern", ["gpt4", "gpt2", "none"])
def test_merges_equal_huggingface_on_the_standard_library(pattern: str, tmp_path: Path) -> None:
    texts = standard_library(1_000_000 if pattern != "none" else 60_000)
    assert_equal_models(texts, 8192 if pattern != "none" else 600, pattern, tmp_path)


@pytest.mark.parametrize("name", ["tinyshakespeare/input.txt", "sentencepiece/wagahaiwa_nekodearu.txt"])
def test_merges_equal_huggingface_on_real_text(name: str, tmp_path: Path) -> None:
    text = asset(name).read_bytes().decode()[:120_000]
    assert_equal_models([text], 4096, "gpt4", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["gpt4", "gpt2", "o200k", "llama3", "qwen2"])
def test_merges_equal_huggingface_on_the_whole_standard_library(pattern: str, tmp_path: Path) -> None:
    assert_equal_models(standard_library(1 << 40), 32_768, pattern, tmp_path)


def merges_by_definition(pieces: list[bytes], vocab_size: int) -> list[tuple[bytes, bytes]]:
    """Recounts all pairs before every merge."""
    alphabet = Tokenizer.train(["xy" * 3], 256, pattern="none")
    ids = {alphabet.decode_bytes([i]): i for i in range(256)}
    words = [[bytes([byte]) for byte in piece] for piece in pieces]
    merges: list[tuple[bytes, bytes]] = []
    while len(ids) < vocab_size:
        counts = Counter(pair for word in words for pair in itertools.pairwise(word))
        if not counts:
            break
        left, right = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        merges.append((left, right))
        ids.setdefault(left + right, len(ids))
        words = [merge(word, left, right) for word in words]
    return merges


def merge(word: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    result: list[bytes] = []
    i = 0
    while i < len(word):
        if word[i : i + 2] == [left, right]:
            result.append(left + right)
            i += 2
        else:
            result.append(word[i])
            i += 1
    return result


@given(st.lists(st.text("ab", min_size=1, max_size=24), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_merges_follow_the_definition(pieces: list[str]) -> None:
    # Two letters make many runs, ties and tokens that two different merges spell.
    trained = Tokenizer.train(iter(pieces), 290, pattern="none")
    merges = [
        (trained.decode_bytes([left]), trained.decode_bytes([right]))
        for left, right, _ in trained._definition.model.merges.tolist()
    ]
    assert merges == merges_by_definition([piece.encode() for piece in pieces], 290)


def test_threads_do_not_change_the_result(tmp_path: Path) -> None:
    text = "".join(standard_library(3_000_000))
    one, three = (our_model(Tokenizer.train([text], 2000, num_threads=n), tmp_path) for n in (1, 3))
    assert one == three


def test_file_kinds_give_the_same_merges(tmp_path: Path) -> None:
    documents = [text.replace("\r", "") for text in standard_library(300_000)]
    (tmp_path / "folder").mkdir()
    for i, text in enumerate(documents):
        (tmp_path / "folder" / f"{i:04}.py").write_text(text, newline="")
    jsonl = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    (tmp_path / "all.jsonl").write_text(jsonl)
    (tmp_path / "all.jsonl.gz").write_bytes(gzip.compress(jsonl.encode()))
    expected = our_model(Tokenizer.train(iter(documents), 1000), tmp_path)
    sources: list[Any] = [
        str(tmp_path / "folder"),
        [tmp_path / "all.jsonl"],
        tmp_path / "all.jsonl.gz",
        [text.encode() for text in documents],
        sorted((tmp_path / "folder").iterdir()),
    ]
    for source in sources:
        assert our_model(Tokenizer.train(source, 1000), tmp_path) == expected


def test_a_document_larger_than_a_batch_is_cut_safely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(standard_library(400_000))
    file = tmp_path / "long.txt"
    file.write_text(text, newline="")
    expected = our_model(Tokenizer.train([text], 1000), tmp_path)
    monkeypatch.setattr("pyllm.tokenizers.training._BATCH_CHARACTERS", 50_000)
    assert our_model(Tokenizer.train(file, 1000), tmp_path) == expected


def test_special_tokens_are_borders_and_come_first() -> None:
    trained = Tokenizer.train([f"abab{END}abab" * 20], 400, special_tokens=[END, "<pad>"])
    assert trained.special_tokens == {END: 0, "<pad>": 1}
    assert trained.eos_token_id == 0
    # Nothing of "<|endoftext|>" has been merged.
    assert len(trained.encode(END, disallowed_special=())) == len(END)
    assert trained.encode(f"abab{END}", allowed_special="all")[-1] == 0


def test_progress_is_reported_and_may_stop_the_training() -> None:
    heard: list[tuple[str, int, int]] = []
    Tokenizer.train(standard_library(200_000), 1200, on_progress=lambda *event: heard.append(event))
    assert {phase for phase, _, _ in heard} == {"reading", "merging"}
    assert heard[-1] == ("merging", 1200, 1200)

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "merging":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tokenizer.train(standard_library(200_000), 1200, on_progress=stop)


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
        (["no/such/file.txt"], {"vocab_size": 300}, FileNotFoundError, "no/such/file.txt"),
        ("no_such_folder", {"vocab_size": 300}, FileNotFoundError, "no_such_folder"),
        ([Path("no/such/file")], {"vocab_size": 300}, FileNotFoundError, "no/such/file"),
    ],
)
def test_bad_arguments(source: Any, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Tokenizer.train(source, **arguments)
