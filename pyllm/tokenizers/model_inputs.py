"""Encodings of texts and pairs, and the rectangles that models take, under transformers' names.

Lengths, sides and padding are arguments of the call: a tokenizer that threads share has no settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from pyllm.tokenizers import encoding as encodings
from pyllm.tokenizers.encoding import Encoding, Side, Strategy
from pyllm.tokenizers.offsets import in_characters, trim, whitespace_at_ends
from pyllm.tokenizers.post_processors import PostProcessor, read_post_processor
from pyllm.tokenizers.token_lookup import Specials, TokenLookup

Text = str | bytes | bytearray | memoryview | np.ndarray
Padding = Literal["longest", "max_length"] | bool
Truncation = Strategy | bool
_PADS = ("[PAD]", "<pad>", "<|pad|>", "<PAD>")


class ModelInputs(TokenLookup):
    """The part of a Tokenizer that prepares what models are given."""

    def num_special_tokens_to_add(self, is_pair: bool = False) -> int:
        """How many ids `add_special_tokens=True` puts around a text or a pair."""
        return self._post_processor.added(2 if is_pair else 1)

    @property
    def pad_token_id(self) -> int | None:
        """The id of the special token [PAD], <pad>, <|pad|> or <PAD>; None where there is none."""
        return next((self.special_tokens[name] for name in _PADS if name in self.special_tokens), None)

    def encode_plus(self, text: Text, text_pair: Text | None = None, **options: Any) -> Encoding:
        """The `Encoding` of a text or of a pair; `options` as in `encode_plus_batch`."""
        pairs = None if text_pair is None else [text_pair]
        return self.encode_plus_batch([text], pairs, **options)[0]

    def encode_plus_batch(
        self,
        texts: Iterable[Text],
        text_pairs: Iterable[Text] | None = None,
        *,
        add_special_tokens: bool = True,
        truncation: Truncation = True,
        max_length: int | None = None,
        stride: int = 0,
        truncation_side: Side = "right",
        padding: Padding = False,
        padding_side: Side = "right",
        pad_token_id: int | None = None,
        pad_token_type_id: int = 0,
        pad_to_multiple_of: int | None = None,
        unit: Literal["characters", "bytes"] = "characters",
        trim_offsets: bool = True,
        allowed_special: Specials = (),
        disallowed_special: Specials = "all",
    ) -> list[Encoding]:
        """An `Encoding` for each text, or pair of texts, as Hugging Face's tokenizers gives it.

        max_length: of what a model is given, special tokens included; longer texts are cut and the rest is in
            `overflowing`, in windows that share `stride` ids. truncation: which text of a pair is cut: "longest_first"
            (True), "only_first", "only_second"; False: no cutting. truncation_side: which end is cut off.
        padding: "longest" (True) of the batch with what overflows, or "max_length"; then up to a multiple of
            `pad_to_multiple_of`. pad_token_id: default `self.pad_token_id`.
        unit: what offsets count. trim_offsets: drop the whitespace at the ends of tokens where the tokenizer's
            post-processor says so.

        Special tokens in the texts follow the rule of `encode`. Raises ValueError and TypeError, naming the argument.
        """
        firsts = listed(texts, "texts")
        seconds = None if text_pairs is None else listed(text_pairs, "text_pairs")
        if seconds is not None and len(seconds) != len(firsts):
            raise ValueError(f"text_pairs: expected {len(firsts)} texts, got {len(seconds)}")
        _check_choice("unit", unit, ("characters", "bytes"))
        _check_choice("truncation_side", truncation_side, ("left", "right"))
        _check_choice("padding_side", padding_side, ("left", "right"))
        strategy = _strategy(truncation, max_length, stride)
        length = self._padding(padding, max_length, pad_to_multiple_of)
        options = self._checked_options([*firsts, *(seconds or [])], allowed_special, disallowed_special)
        room = max_length
        if room is not None and add_special_tokens:
            room -= self.num_special_tokens_to_add(seconds is not None)
            if room < 0:
                raise ValueError(f"max_length: {max_length} is too short for the special tokens alone")
        rows = []
        for pair in zip(firsts, seconds, strict=True) if seconds is not None else zip(firsts, strict=True):
            parts = [self._encoded(text, i, options, unit) for i, text in enumerate(pair)]
            if strategy is not None and room is not None:
                parts = encodings.truncate_pair(parts, room, strategy, truncation_side, stride)
            if trim_offsets:
                parts = list(map(self._trimmed, parts))
            rows.append(self._post_processor.assemble(parts, add_special_tokens))
        if padding is False:
            return rows
        target = encodings.padded_length(rows, length, pad_to_multiple_of)
        pad_id = self._pad_id(pad_token_id)
        return [encodings.pad(row, target, pad_id, pad_token_type_id, padding_side) for row in rows]

    def __call__(
        self,
        texts: Text | Iterable[Text],
        text_pairs: Text | Iterable[Text] | None = None,
        *,
        return_tensors: Literal["np", "pt"] | None = None,
        return_overflowing_tokens: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """What a model takes of one text or many: input_ids, token_type_ids, attention_mask, and also
        special_tokens_mask, offset_mapping, word_ids, sequence_ids; with `return_overflowing_tokens` the windows that
        overflow are rows too, and overflow_to_sample_mapping says of which text.

        return_tensors: "np" or "pt" gives arrays or tensors (rows, columns) of int64, (rows, columns, 2) for offsets;
        without it a list of arrays, one for each row (for a single text its only row). Other options are those of
        `encode_plus_batch`. Raises ValueError if rows of different lengths are asked for as one array.
        """
        _check_choice("return_tensors", return_tensors, (None, "np", "pt"))
        alone = _is_text(texts)
        pairs: Any = [text_pairs] if alone and text_pairs is not None else text_pairs
        rows = self.encode_plus_batch([texts] if alone else texts, pairs, **options)  # type: ignore[list-item,arg-type]
        samples = [(i, row) for i, row in enumerate(rows)]
        if return_overflowing_tokens:
            samples = [(i, window) for i, row in samples for window in (row, *row.overflowing)]
        columns: dict[str, Any] = {
            key: [getattr(row, name) for _, row in samples] for key, name in _COLUMNS.items()
        }
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = [i for i, _ in samples]
        if return_tensors is None:
            single = alone and not return_overflowing_tokens
            return {key: column[0] for key, column in columns.items()} if single else columns
        arrays = {key: _stacked(column) for key, column in columns.items()}
        if return_tensors == "np":
            return arrays
        import torch

        return {key: torch.from_numpy(array) for key, array in arrays.items()}

    @cached_property
    def _post_processor(self) -> PostProcessor:
        return read_post_processor(self._definition)

    def _encoded(self, text: Text, sequence: int, options: Any, unit: str) -> Encoding:
        ids, offsets, pieces = self._encoding.encode_with_offsets(text, options)
        if unit == "characters":
            offsets = in_characters(offsets, text)
        return encodings.of_text(ids, offsets, pieces, sequence)

    def _trimmed(self, encoding: Encoding) -> Encoding:
        """Whether a token is the first one is a matter of its window, as in tokenizers."""
        offsets, trims = encoding.offsets, self._post_processor.trims
        spaces = whitespace_at_ends(encoding.ids, self._spellings) if trims else None
        for prefix_space in trims:
            offsets = trim(offsets, spaces, prefix_space)
        overflowing = tuple(map(self._trimmed, encoding.overflowing))
        return replace(encoding, offsets=offsets, overflowing=overflowing)

    def _padding(self, padding: Padding, max_length: int | None, multiple: int | None) -> int | None:
        """The length to pad to, None for the longest."""
        _check_choice("padding", padding, (False, True, "longest", "max_length"))
        if multiple is not None and multiple < 1:
            raise ValueError(f"pad_to_multiple_of: expected 1 or more, got {multiple}")
        if padding == "max_length" and max_length is None:
            raise ValueError("max_length: padding='max_length' needs it")
        return max_length if padding == "max_length" else None

    def _pad_id(self, pad_token_id: int | None) -> int:
        pad_id = self.pad_token_id if pad_token_id is None else pad_token_id
        if pad_id is None:
            raise ValueError("pad_token_id: the tokenizer has no padding token; name an id")
        if not 0 <= pad_id < self.vocab_size:
            raise ValueError(f"pad_token_id: expected an id below {self.vocab_size}, got {pad_id}")
        return pad_id


_COLUMNS = {
    "input_ids": "ids",
    "token_type_ids": "type_ids",
    "attention_mask": "attention_mask",
    "special_tokens_mask": "special_tokens_mask",
    "offset_mapping": "offsets",
    "word_ids": "word_ids",
    "sequence_ids": "sequence_ids",
}


def _is_text(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0 or (value.ndim == 1 and value.dtype.itemsize == 1 and value.dtype.kind in "iu")
    return isinstance(value, (str, bytes, bytearray, memoryview))


def listed(texts: Any, argument: str) -> list[Any]:
    """The texts of any iterable. Raises TypeError, naming the argument, for a single text and for anything else."""
    if _is_text(texts) or not isinstance(texts, Iterable):
        raise TypeError(f"{argument}: expected an iterable of texts, got {type(texts).__name__}")
    return list(texts)


def _check_choice(argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{argument}: expected one of {choices}, got {value!r}")


def _strategy(truncation: Truncation, max_length: int | None, stride: int) -> Strategy | None:
    _check_choice("truncation", truncation, (True, False, "longest_first", "only_first", "only_second"))
    if stride < 0:
        raise ValueError(f"stride: expected 0 or more, got {stride}")
    if max_length is not None and max_length < 0:
        raise ValueError(f"max_length: expected 0 or more, got {max_length}")
    if truncation is False:
        return None
    return "longest_first" if truncation is True else truncation


def _stacked(rows: list[Any]) -> np.ndarray:
    if len({np.shape(row) for row in rows}) > 1:
        raise ValueError("return_tensors: the rows have different lengths; ask for padding too")
    return np.array(rows).astype(np.int64)
