"""Training a byte-level BPE on a file with two threads, pieces cut as GPT-2 does: the one way all trainers know."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyllm import Tokenizer
from pyllm.tokenizers.byte_alphabet import unspell
from pyllm.tokenizers.patterns import GPT2

from .case import Call, Case
from .contenders import OURS, THREADS, tokenizers_threads

_BYTES = 256
_QUICK_SIZE, _SIZES = 8192, (8192, 32768)

# (file, number of merges) -> the new tokens in order; None where the rules for ties give others.
Train = Callable[[Path, int], list[bytes] | None]


def cases(texts: Mapping[str, str]) -> Iterator[Case]:
    """Vocabularies of several sizes on all texts together."""
    # Some read files line by line and others whole, which is the same where no line starts or ends with a space.
    lines = (line.strip() for text in texts.values() for line in text.split("\n"))
    corpus = "\n".join(filter(None, lines)).encode()
    for size in _SIZES:
        name, build = f"{size} tokens, all texts", functools.partial(_build, corpus, size - _BYTES)
        yield Case("train", name, len(corpus), build, lambda tokens: tokens, quick=size == _QUICK_SIZE)


def _build(corpus: bytes, merges: int) -> tuple[dict[str, Call], dict[str, str]]:
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "corpus.txt"
    file.write_bytes(corpus)
    calls: dict[str, Call] = {}
    unavailable: dict[str, str] = {}
    for name, make in _TRAINERS.items():
        try:
            calls[name] = functools.partial(_train, make(corpus), folder, file, merges)
        except ModuleNotFoundError as error:
            unavailable[name] = f"not installed ({error.name})"
    return calls, unavailable


def _train(train: Train, _folder: tempfile.TemporaryDirectory[str], file: Path, merges: int) -> Any:
    """The folder is kept for as long as a call may need it."""
    return train(file, merges)


def _ours(_corpus: bytes) -> Train:
    def train(file: Path, merges: int) -> list[bytes]:
        tokenizer = Tokenizer.train(file, _BYTES + merges, pattern="gpt2", num_threads=THREADS)
        return [tokenizer.decode_bytes([i]) for i in range(_BYTES, tokenizer.vocab_size)]

    return train


def _gigabpe(corpus: bytes) -> Train:
    import gigabpe

    alphabet = len(set(corpus))  # bytes that do not occur get no id

    def train(file: Path, merges: int) -> list[bytes]:
        _, rules = gigabpe.train_bpe(
            [str(file)], alphabet + merges, special_tokens=[], pretokenizer="bytelevel", threads=THREADS
        )
        return [unspell(left + right) for left, right in rules]

    return train


def _rustbpe(_corpus: bytes) -> Train:
    import rustbpe

    def train(file: Path, merges: int) -> None:
        with file.open(encoding="utf-8") as lines:
            rustbpe.Tokenizer().train_from_iterator(iter(lines), _BYTES + merges, pattern=GPT2)

    return train


def _tokenizers(_corpus: bytes) -> Train:
    import tokenizers

    def train(file: Path, merges: int) -> list[bytes]:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=_BYTES + merges,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        with tokenizers_threads(THREADS):
            tokenizer.train([str(file)], trainer)
        spelled = (tokenizer.id_to_token(i) for i in range(_BYTES, tokenizer.get_vocab_size()))
        return [unspell(token) for token in spelled if token is not None]

    return train


_TRAINERS: dict[str, Callable[[bytes], Train]] = {
    OURS: _ours,
    "tokenizers": _tokenizers,
    "gigabpe": _gigabpe,
    "rustbpe": _rustbpe,
}
