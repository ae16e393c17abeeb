"""The Tokenizer: Python's face of the C++ core."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyllm.tokenizers.chats import Chats
from pyllm.tokenizers.components import build_encoding, known_pattern
from pyllm.tokenizers.decoding import Ids, as_ids, decoding_tables
from pyllm.tokenizers.definition import BytePairs, TokenizerDefinition
from pyllm.tokenizers.model_inputs import ModelInputs, Text, listed
from pyllm.tokenizers.offsets import character_starts, in_characters
from pyllm.tokenizers.streaming import StreamDecoder
from pyllm.tokenizers.threads import thread_count
from pyllm.tokenizers.token_lookup import Specials, SpecialsRule
from pyllm.tokenizers.unstable import completions, split_unstable

if TYPE_CHECKING:
    import torch

    from pyllm.tokenizers.explanation import Explanation
    from pyllm.tokenizers.training import Progress, TextSources


class Tokenizer(ModelInputs, Chats):
    """Text to ids and back, with the ids of tiktoken, sentencepiece and Hugging Face's tokenizers: byte-level BPE,
    SentencePiece's BPE, Unigram and WordPiece.

    Make one with `Tokenizer.train` or `Tokenizer.from_file`. Threads may share it; it can be pickled and copied.

    Text is str, bytes, or another buffer of bytes (bytearray, memoryview, numpy). Any bytes can be encoded. Byte-level
    BPE decodes them to themselves unless it normalizes (Qwen) or its vocabulary lacks a byte (SmolLM2 has no 0xF1),
    which is then left out as tokenizers does. Lone surrogates in a str, which have no bytes, become U+FFFD as in
    tiktoken.

    Attributes:
        vocab_size: the largest id + 1.
        special_tokens: name -> id.
        bos_token, eos_token, bos_token_id, eos_token_id: None where the tokenizer has none.
        chat_template: Jinja source, several by name, or None; may be set.
        pattern: the name of the pretokenizer, or None where it has none of the known names.
    """

    def __init__(self, definition: TokenizerDefinition) -> None:
        self._definition = definition
        self._added = definition.added_tokens
        self._encoding = build_encoding(definition, decoding_tables(definition))
        self._rules: dict[SpecialsRule, tuple[Any, Any]] = {}
        self.vocab_size = len(definition.tokens)
        self.special_tokens = {token.content: token.id for token in self._added if token.special}
        self.pattern = known_pattern(definition.pre_tokenizers)
        self.bos_token, self.eos_token = definition.bos_token, definition.eos_token
        self.chat_template = definition.chat_template
        self._control_flags: tuple[Any, list[bool]] | None = None

    @classmethod
    def train(
        cls,
        files_or_texts: TextSources,
        vocab_size: int,
        *,
        algorithm: str = "bpe",
        pattern: str = "gpt4",
        special_tokens: Sequence[str] = (),
        tie_break: str = "hf",
        num_threads: int | None = None,
        max_memory: int | None = None,
        on_progress: Progress | None = None,
    ) -> Tokenizer:
        """Trains a byte-level BPE; the merges are the same for any number of threads and any chunking of the text.

        files_or_texts: paths of files and folders (text of any suffix, .jsonl with a "text" field, .gz of both), texts,
            or an iterable of them, which is streamed; or a mapping of texts to how often each counts. A str is a path
            if a file has that name, and if it is one line and all there is.
        vocab_size: how many ids there shall be: special tokens first, then 256 bytes, then merges. The tokenizer is
            smaller where the text has no more pairs to merge.
        pattern: the pretokenizer: gpt2, gpt4 (= cl100k), o200k, llama3, qwen2, smollm or none.
        special_tokens: in the text they are borders and are not trained on. `<|endoftext|>` becomes eos.
        tie_break: which of several equally frequent pairs is merged. "hf": the smallest (left id, right id), bytes in
            the order of the byte-level alphabet, a token that is spelled twice keeps its id: tokenizers' BpeTrainer.
            "bytes": the same with bytes as ids 0 to 255 and a new id for every merge: rustbpe. "first_seen": the pair
            that stands first in the text, ids as in "bytes": minbpe. With these two a token that is spelled twice has
            one id in the result all the same, so there may be fewer tokens than vocab_size.
        max_memory: bytes that counting and merging may take; None: what the machine has available. It depends on how
            many different pieces there are, not on the length of the text.
        on_progress: hears (phase, done, total): "reading" counts bytes (total 0: unknown), "merging" tokens.

        Raises ValueError, TypeError or FileNotFoundError, naming the argument, and MemoryError before more than
        max_memory is taken.
        """
        from pyllm.tokenizers.training import train_byte_pairs

        if algorithm != "bpe":
            raise ValueError(f"algorithm: expected 'bpe', got {algorithm!r}")
        return cls(
            train_byte_pairs(
                files_or_texts,
                vocab_size,
                pattern=pattern,
                special_tokens=special_tokens,
                tie_break=tie_break,
                num_threads=thread_count(num_threads),
                max_memory=max_memory,
                on_progress=on_progress,
            )
        )

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        pattern: str | None = None,
        special_tokens: Mapping[str, int] | Iterable[str] | None = None,
    ) -> Tokenizer:
        """Loads a tokenizer from a file, or from a folder that holds one under its usual name.

        path: tokenizer.json, *.tiktoken, *.model (SentencePiece, or tiktoken's form as Llama 3 has it), *.gguf,
            vocab.txt (WordPiece), tekken.json, *.pyllm-tokenizer, or vocab.json with merges.txt beside it.
        pattern: replaces the file's pretokenizer (byte-level BPE only); needed for .tiktoken files other than OpenAI's.
        special_tokens: for .tiktoken files only: name -> id, or names that get the ids after the last rank.

        Raises FileNotFoundError, and ValueError for what is damaged or not supported, naming it.
        """
        from pyllm.tokenizers.loading import load_definition

        definition = load_definition(Path(path), pattern, special_tokens)
        try:
            return cls(definition)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def encode(
        self,
        text: Text,
        *,
        add_special_tokens: bool = False,
        allowed_special: Specials = (),
        disallowed_special: Specials = "all",
        num_threads: int | None = 1,
    ) -> list[int]:
        """The ids of a text.

        Special tokens that the text spells out follow tiktoken's rule: those in `allowed_special` become their id;
        others raise ValueError if they are in `disallowed_special`, and are plain text otherwise. "all" means every
        special token (in `disallowed_special`: every one that is not allowed). Added tokens that are not special always
        match. `add_special_tokens` puts what the model's post-processor or template asks for (bos, eos) around the ids.

        num_threads: a long text is cut into parts for them (None: as many as this process may use) where that is proven
            not to change any id; one that has no such place is encoded by one thread.
        """
        options = self._checked_options([text], allowed_special, disallowed_special)
        ids = self._encoding.encode(text, options, thread_count(num_threads))
        prefix, suffix = self._surroundings(add_special_tokens)
        return [*prefix, *ids, *suffix] if add_special_tokens else ids

    def encode_batch(
        self,
        texts: Iterable[Text],
        *,
        add_special_tokens: bool = False,
        allowed_special: Specials = (),
        disallowed_special: Specials = "all",
        num_threads: int | None = None,
    ) -> list[list[int]]:
        """`encode` of every text, on `num_threads` threads (default: as many as this process may use)."""
        rows = listed(texts, "texts")
        options = self._checked_options(rows, allowed_special, disallowed_special)
        around = self._surroundings(add_special_tokens)
        return self._encoding.encode_batch(rows, options, thread_count(num_threads), *around)

    def encode_to_numpy(
        self,
        text: Text,
        *,
        add_special_tokens: bool = False,
        allowed_special: Specials = (),
        disallowed_special: Specials = "all",
        num_threads: int | None = 1,
    ) -> np.ndarray:
        """`encode` as an array (tokens,) uint32, without a list in between."""
        options = self._checked_options([text], allowed_special, disallowed_special)
        ids = self._encoding.encode_to_numpy(text, options, thread_count(num_threads))
        if not add_special_tokens:
            return ids
        prefix, suffix = self._surroundings(True)
        return np.concatenate([np.array(prefix, np.uint32), ids, np.array(suffix, np.uint32)])

    def encode_batch_to_numpy(
        self,
        texts: Iterable[Text],
        *,
        add_special_tokens: bool = False,
        allowed_special: Specials = (),
        disallowed_special: Specials = "all",
        num_threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts in one array (tokens,) uint32, and where each begins: (texts + 1,) int64.

        Text i has the ids `ids[borders[i] : borders[i + 1]]`; no lists in between.
        """
        rows = listed(texts, "texts")
        options = self._checked_options(rows, allowed_special, disallowed_special)
        around = self._surroundings(add_special_tokens)
        return self._encoding.encode_batch_flat(rows, options, thread_count(num_threads), *around)

    def encode_to_torch(self, text: Text, **options: Any) -> torch.Tensor:
        """`encode_to_numpy` as a tensor (tokens,) int32 that shares its memory; embeddings take int32 as it is."""
        import torch

        return torch.from_numpy(self.encode_to_numpy(text, **options).view(np.int32))

    def encode_ordinary(self, text: Text) -> list[int]:
        """The ids of a text in which special tokens are plain text."""
        return self.encode(text, disallowed_special=())

    def encode_ordinary_batch(
        self, texts: Iterable[Text], *, num_threads: int | None = None
    ) -> list[list[int]]:
        """`encode_ordinary` of every text."""
        return self.encode_batch(texts, disallowed_special=(), num_threads=num_threads)

    def encode_piece(self, piece: Text) -> list[int]:
        """The ids that the model gives for the bytes as one piece: nothing is normalized, cut or looked for in them."""
        return self._encoding.encode_piece(piece)

    def encode_with_unstable(
        self, text: Text, *, allowed_special: Specials = (), disallowed_special: Specials = "all"
    ) -> tuple[list[int], list[list[int]]]:
        """The ids that stay whatever follows the text, and all runs of ids that the rest can become, sorted.

        As in tiktoken. Raises ValueError where it cannot be told: models other than byte-level BPE, and normalizers.
        """
        if not isinstance(self._definition.model, BytePairs) or self._definition.normalizers:
            raise ValueError("encode_with_unstable: only for byte-level BPE without normalizers")
        options = self._checked_options([text], allowed_special, disallowed_special)
        ids, _, pieces = self._encoding.encode_with_offsets(text, options)
        added = len(ids) == 0 or int(ids[-1]) in self._added_ids
        last_piece = 0 if added else int(np.count_nonzero(pieces == pieces[-1]))
        stable, unstable = split_unstable(ids.tolist(), last_piece, self)
        if not unstable:
            return stable, []
        return stable, sorted(map(list, completions(unstable, self._sorted_tokens, self)))

    def encode_with_offsets(
        self,
        text: Text,
        *,
        unit: Literal["characters", "bytes"] = "characters",
        allowed_special: Specials = (),
        disallowed_special: Specials = "all",
    ) -> tuple[list[int], np.ndarray]:
        """The ids, and for each where in the text it comes from: an array (tokens, 2) int64 of begin and end.

        unit: what begin and end count: characters of the text or bytes of its UTF-8. A character that is spread over
        several tokens belongs to each of them in full. What normalizers change keeps the place of what it was; a space
        that they put in front has the place of the first character. Neither truncated nor trimmed.
        """
        if unit not in ("characters", "bytes"):
            raise ValueError(f"unit: expected 'characters' or 'bytes', got {unit!r}")
        options = self._checked_options([text], allowed_special, disallowed_special)
        ids, offsets, _ = self._encoding.encode_with_offsets(text, options)
        return ids.tolist(), offsets if unit == "bytes" else in_characters(offsets, text)

    def explain(
        self,
        text: Text,
        *,
        add_special_tokens: bool = False,
        allowed_special: Specials = (),
        disallowed_special: Specials = "all",
    ) -> Explanation:
        """How `encode` comes to the ids of a text; print it.

        For every piece of the text its place, the tokens, the merges that lead to them or their scores, and which are
        added tokens; what the normalizers changed; special tokens that were left as plain text.
        """
        from pyllm.tokenizers.explanation import explain

        options = self._checked_options([text], allowed_special, disallowed_special)
        return explain(self, text, options, add_special_tokens)

    def count(
        self,
        text: Text,
        *,
        add_special_tokens: bool = False,
        allowed_special: Specials = (),
        disallowed_special: Specials = "all",
    ) -> int:
        """len(encode(text)), without making the list."""
        options = self._checked_options([text], allowed_special, disallowed_special)
        around = sum(map(len, self._surroundings(add_special_tokens)))
        return self._encoding.count(text, options) + around

    def count_until(
        self,
        text: Text,
        limit: int,
        *,
        add_special_tokens: bool = False,
        allowed_special: Specials = (),
        disallowed_special: Specials = "all",
    ) -> int | None:
        """count(text) if it is at most `limit`, else None.

        The rest of the text is then not encoded, where the pretokenizer is one of the known ones or cuts the text into
        pieces; but it is searched for special tokens and, where the tokenizer normalizes, normalized.
        """
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit: expected int, got {type(limit).__name__}")
        if limit < 0:
            raise ValueError(f"limit: expected 0 or more, got {limit}")
        options = self._checked_options([text], allowed_special, disallowed_special)
        around = sum(map(len, self._surroundings(add_special_tokens)))
        if around > limit:
            return None
        count = self._encoding.count_until(text, options, min(limit - around, 1 << 62))
        return None if count is None else count + around

    def decode(self, ids: Ids, *, errors: str = "replace", skip_special_tokens: bool = False) -> str:
        """The text of the ids.

        ids: a list, tuple or iterable of int, or an array or tensor of integers with one dimension.
        errors: what becomes of bytes that are not UTF-8, as in bytes.decode.
        skip_special_tokens: as if special tokens were not among the ids.

        Raises ValueError for an id without token, naming it, and TypeError for what is no sequence of integers.
        """
        return self._encoding.decode_to_text(as_ids(ids), errors, skip_special_tokens)

    def decode_batch(
        self,
        rows: Iterable[Ids],
        *,
        errors: str = "replace",
        skip_special_tokens: bool = False,
        num_threads: int | None = None,
    ) -> list[str]:
        """`decode` of every row, on `num_threads` threads (default: as many as this process may use)."""
        return self._encoding.decode_batch(
            [as_ids(row) for row in rows], errors, skip_special_tokens, thread_count(num_threads)
        )

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes of the ids, see `decode`."""
        return self._encoding.decode(as_ids(ids))

    def decode_bytes_batch(self, rows: Iterable[Ids]) -> list[bytes]:
        """`decode_bytes` of every row."""
        return [self.decode_bytes(ids) for ids in rows]

    def decode_with_offsets(self, ids: Ids) -> tuple[str, list[int]]:
        """The text, and for every id the index of the first character that has bytes of its token.

        Raises ValueError for an id without token, and UnicodeDecodeError if the bytes are not UTF-8.
        """
        parts = [self._encoding.decode([token_id], i == 0) for i, token_id in enumerate(as_ids(ids))]
        return b"".join(parts).decode("utf-8"), character_starts(parts)

    def stream_decoder(self, *, skip_special_tokens: bool = False) -> StreamDecoder:
        """A decoder to push ids into one by one, that never shows a broken character."""
        return StreamDecoder(self._encoding.stream_decoder(skip_special_tokens))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tokenizer as tokenizer.json or in our own form.

        *.pyllm-tokenizer: our own form, for every kind of tokenizer, which loads in milliseconds and whose pages
            processes share.
        *.json, or a folder for tokenizer.json: Hugging Face's tokenizers loads it with equal ids. Beside a file named
            tokenizer.json there will be a tokenizer_config.json with bos, eos and chat template, which transformers
            reads.

        Raises ValueError for what tokenizer.json cannot hold.
        """
        from pyllm.tokenizers.huggingface_save import save_tokenizer
        from pyllm.tokenizers.own_file import SUFFIX, save_own_file

        if Path(path).suffix == SUFFIX:
            save_own_file(self._current_definition(), self._encoding, Path(path))
        else:
            save_tokenizer(self._current_definition(), self._encoding.merges(), Path(path))

    def gguf_metadata(self, vocab_size: int) -> dict[str, Any]:
        """The tokenizer as keys of a GGUF file whose model has `vocab_size` embeddings.

        Raises ValueError for what GGUF cannot hold.
        """
        from pyllm.tokenizers.gguf_save import gguf_tokenizer

        return gguf_tokenizer(self._current_definition(), self._encoding.merges(), vocab_size)

    @property
    def bos_token_id(self) -> int | None:
        return self.special_tokens.get(self.bos_token) if self.bos_token else None

    @property
    def eos_token_id(self) -> int | None:
        return self.special_tokens.get(self.eos_token) if self.eos_token else None

    @property
    def eot_token(self) -> int:
        """The id of `<|endoftext|>`. Raises KeyError if there is none."""
        return self.special_tokens["<|endoftext|>"]

    @cached_property
    def _sorted_tokens(self) -> list[bytes]:
        return self.token_byte_values()

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, pattern={self.pattern!r})"

    def __reduce__(self) -> tuple[Any, tuple[type[Tokenizer], bytes]]:
        from pyllm.tokenizers.own_file import to_bytes

        return _unpickled, (type(self), to_bytes(self._current_definition()))

    def _current_definition(self) -> TokenizerDefinition:
        return replace(
            self._definition,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            chat_template=self.chat_template,
        )

    def _surroundings(self, add_special_tokens: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids before and after each text."""
        return (self._definition.prefix_ids, self._definition.suffix_ids) if add_special_tokens else ((), ())


def _unpickled(kind: type[Tokenizer], file: bytes) -> Tokenizer:
    from pyllm.tokenizers.own_file import from_bytes

    return kind(from_bytes(file))
