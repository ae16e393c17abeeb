"""The trainer against the plain definitions of its tie rules, and against tokenizers' BpeTrainer and rustbpe."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer, _tokenizers
from pyllm.data import standard_library_files
from pyllm.tokenizers.patterns import GPT2, PATTERNS
from tests.assets import asset

END = "<|endoftext|>"
RULES = ("hf", "bytes", "first_seen")
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ALPHABET = PRINTABLE + [byte for byte in range(256) if byte not in PRINTABLE]

Merges = list[tuple[bytes, bytes]]


def huggingface_model(texts: list[str], vocab_size: int, pattern: str) -> dict[str, Any]:
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
    ours, theirs = our_model(trained, folder), huggingface_model(texts, vocab_size, pattern)
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


@pytest.mark.parametrize(
    ("limit", "vocab_size"), [(500_000, 4096), pytest.param(1 << 40, 32_768, marks=pytest.mark.slow)]
)
def test_tokens_equal_rustbpe(limit: int, vocab_size: int) -> None:
    rustbpe = pytest.importorskip("rustbpe")
    texts = standard_library(limit)
    reference = rustbpe.Tokenizer()
    reference.train_from_iterator(iter(texts), vocab_size, pattern=GPT2)
    merges = train_pieces("gpt2", texts, vocab_size, "bytes")
    assert [left + right for left, right in merges] == [
        bytes(token) for token, rank in reference.get_mergeable_ranks() if rank >= 256
    ]


def train_pieces(
    grammar: str, texts: list[str] | dict[str, int], vocab_size: int, rule: str, num_threads: int = 1
) -> Merges:
    """All merges the core makes, repeated ones included."""
    training = _tokenizers.Training(grammar, [], rule, None)
    for text in texts:
        training.add([text], texts[text] if isinstance(texts, dict) else 1, num_threads)
    tokens, merges = training.run(vocab_size, lambda done, total: None)
    assert len(set(tokens)) == len(tokens)
    assert all(tokens[merged] == tokens[left] + tokens[right] for left, right, merged in merges.tolist())
    return [(tokens[left], tokens[right]) for left, right, _ in merges.tolist()]


def merges_by_definition(counts: dict[str, int], vocab_size: int, rule: str) -> Merges:
    """Recounts all pairs before every merge. Pieces with how often they stand in the text, in its order."""
    tokens = [bytes([byte]) for byte in (ALPHABET if rule == "hf" else range(256))]
    words = [([tokens.index(bytes([byte])) for byte in piece.encode()], n) for piece, n in counts.items()]
    merges: Merges = []
    while len(tokens) < vocab_size:
        found: Counter[tuple[int, int]] = Counter()
        for word, n in words:
            for pair in itertools.pairwise(word):
                found[pair] += n
        if not found:
            break
        if rule == "first_seen":
            left, right = max(found, key=found.__getitem__)  # of equals the one counted first
        else:
            left, right = min(found, key=lambda pair: (-found[pair], pair))
        merges.append((tokens[left], tokens[right]))
        token = tokens[left] + tokens[right]
        new = tokens.index(token) if rule == "hf" and token in tokens else len(tokens)
        if new == len(tokens):
            tokens.append(token)
        words = [(merge(word, (left, right), new), n) for word, n in words]
    return merges


def merge(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    result: list[int] = []
    i = 0
    while i < len(word):
        found = tuple(word[i : i + 2]) == pair
        result.append(new if found else word[i])
        i += 2 if found else 1
    return result


# Two letters make many runs, ties, and tokens that two different merges spell.
few_letters = st.lists(st.text("ab", min_size=1, max_size=24), min_size=1, max_size=6)
any_letters = st.lists(
    st.text(st.sampled_from("abc é\n日"), min_size=1, max_size=160), min_size=1, max_size=12
)


@pytest.mark.parametrize("rule", RULES)
@given(pieces=st.one_of(few_letters, any_letters))
@settings(max_examples=100, deadline=None)
def test_merges_follow_the_definition(rule: str, pieces: list[str]) -> None:
    expected = merges_by_definition(Counter(pieces), 290, rule)
    assert train_pieces("none", pieces, 290, rule) == expected
    assert train_pieces("none", pieces, 290, rule, num_threads=3) == expected


@pytest.mark.parametrize("rule", RULES)
@given(counts=st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 1 << 54), min_size=1))
@settings(max_examples=50, deadline=None)
def test_counts_go_beyond_32_bits(rule: str, counts: dict[str, int]) -> None:
    assert train_pieces("none", counts, 280, rule) == merges_by_definition(counts, 280, rule)


def test_a_mapping_weighs_texts() -> None:
    # In 32 bits "cd" would have a count of 1, in float32 the two would be equal.
    weighed = Tokenizer.train({"ab ab": 1 << 31, b"cd": (1 << 32) + 1, "ef": 0}, 258, pattern="gpt2")
    assert [weighed.decode_bytes([i]) for i in (256, 257)] == [b"cd", b"ab"]


def test_counts_that_could_overflow_are_an_error() -> None:
    with pytest.raises(OverflowError, match="files_or_texts"):
        Tokenizer.train({"ab": (1 << 62) - 1, "abc": 1 << 62}, 258)


def test_a_letter_repeated_a_million_times_is_linear() -> None:
    # One piece, whose slots lie far from its header. After 19 doublings the tokens are the binary digits of a million,
    # each pair stands once, and the last two tokens have the smallest ids.
    merges = train_pieces("none", ["a" * 1_000_000], 276, "hf")
    assert merges[:19] == [(b"a" * (1 << i), b"a" * (1 << i)) for i in range(19)]
    assert merges[19:] == [(b"a" * 512, b"a" * 64)]


@pytest.mark.parametrize("rule", RULES)
def test_tie_rules_differ_and_save(rule: str, tmp_path: Path) -> None:
    # Equally frequent: "\n\n" is smallest by byte, "!!" in the byte-level alphabet, "zz" stands first.
    trained = Tokenizer.train(["zz!!\n\n"], 257, pattern="none", tie_break=rule)
    expected = {"hf": b"!!", "bytes": b"\n\n", "first_seen": b"zz"}
    assert trained.decode_bytes([256]) == expected[rule]
    trained.save(tmp_path / "trained.json")
    loaded = Tokenizer.from_file(tmp_path / "trained.json")
    assert loaded.encode("zz!!\n\n") == trained.encode("zz!!\n\n")


@pytest.mark.parametrize("rule", RULES)
def test_threads_do_not_change_the_result(rule: str) -> None:
    text = "".join(standard_library(3_000_000))
    one, three = (train_pieces("cl100k", [text], 2000, rule, num_threads=n) for n in (1, 3))
    assert one == three


def test_special_tokens_are_borders_and_come_first() -> None:
    trained = Tokenizer.train([f"abab{END}abab" * 20], 400, special_tokens=[END, "<pad>"])
    assert trained.special_tokens == {END: 0, "<pad>": 1}
    assert trained.eos_token_id == 0
    # Nothing of "<|endoftext|>" has been merged.
    assert len(trained.encode(END, disallowed_special=())) == len(END)
    assert trained.encode(f"abab{END}", allowed_special="all")[-1] == 0
