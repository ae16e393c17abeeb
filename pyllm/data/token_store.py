"""Text turned into token ids once, then memory-mapped: the layer between text files and packed rows.

A store is a folder of three files: `tokens.bin` (all ids in reading order, little-endian), `pieces.npy` (one
record per piece: where it ends, and a hash of its text) and `store.json`. It appears under its final name
only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pyllm.data.cache import cache_folder
from pyllm.data.sources import PIECE_CHARACTERS, Piece, expand_paths, read_pieces, standard_library_files

_FORMAT = 1
_BATCH_PIECES = 256
_PIECE = np.dtype([("end", "<i8"), ("text_hash", "<u8")])


class Encoder(Protocol):
    """What tokenizing needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    def encode_batch(self, texts: Sequence[str], *, disallowed_special: Any) -> Sequence[Sequence[int]]: ...

    def save(self, path: str | Path) -> None: ...


@dataclass(frozen=True)
class TokenStore:
    """Token ids of a collection of texts.

    `tokens` (tokens,) uint16 or uint32, memory-mapped; `ends` (pieces,) int64, where each piece ends in
    `tokens`; `text_hashes` (pieces,) uint64; `digest` a hexadecimal SHA-256 of the ids, which names the
    content.
    """

    tokens: np.ndarray
    ends: np.ndarray
    text_hashes: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([[0], self.ends[:-1]])


def tokenize(
    paths: Sequence[str | Path],
    tokenizer: Encoder,
    end_of_text: int,
    *,
    cache: Path | None = None,
    on_progress: Callable[[int], None] = lambda tokens: None,
) -> TokenStore:
    """Tokenizes every document under `paths` (none: Python's standard library), or opens the store of an
    earlier call.

    Each document ends with the id `end_of_text`. Stores lie in `cache` (default: the user's cache folder)
    under a name made of the files' paths, sizes and times and of the tokenizer; `on_progress` hears the
    number of tokens so far. Raises what `read_pieces` raises, and ValueError when there is no text at all.
    """
    folder = (cache or cache_folder()) / "tokens" / _key(paths, tokenizer, end_of_text)
    if not (folder / "store.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
        try:
            _write(unfinished, read_pieces(paths), tokenizer, end_of_text, on_progress)
            _publish(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return open_token_store(folder)


def open_token_store(folder: Path) -> TokenStore:
    """Maps the store in `folder`; raises ValueError when its files do not fit together."""
    about = json.loads((folder / "store.json").read_text())
    pieces = np.load(folder / "pieces.npy", allow_pickle=False)
    tokens = np.memmap(folder / "tokens.bin", dtype=np.dtype(about["dtype"]), mode="r")
    if pieces.dtype != _PIECE or len(pieces) == 0 or pieces["end"][-1] != len(tokens):
        raise ValueError(
            f"data: the token store {str(folder)!r} is damaged; delete that folder and run again"
        )
    return TokenStore(tokens, pieces["end"], pieces["text_hash"], about["digest"])


def split(store: TokenStore, validation_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Piece numbers for training and for validation: a piece is held out by the hash of its text.

    The choice depends on the text alone, so equal texts land on one side, and more data moves nothing across.
    When no hash falls into the fraction, the smallest one is held out; a single piece gives no validation.
    Pieces of one long document fall on both sides.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction: expected 0 <= fraction < 1, got {validation_fraction}")
    held_out = store.text_hashes < np.uint64(validation_fraction * 2.0**64)
    if validation_fraction > 0 and not held_out.any():
        held_out = store.text_hashes == store.text_hashes.min()
    if held_out.all():
        held_out[:] = False
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _key(paths: Sequence[str | Path], tokenizer: Encoder, end_of_text: int) -> str:
    key = hashlib.sha256(f"{_FORMAT} {PIECE_CHARACTERS} {end_of_text}".encode())
    for file in expand_paths(paths) if paths else standard_library_files():
        about = file.stat()
        key.update(f"\0{file.resolve()}\0{about.st_size}\0{about.st_mtime_ns}".encode())
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "tokenizer.json")
        tokenizer.save(saved)
        key.update(saved.read_bytes())
    return key.hexdigest()[:32]


def _write(
    folder: Path,
    pieces: Iterator[Piece],
    tokenizer: Encoder,
    end_of_text: int,
    on_progress: Callable[[int], None],
) -> None:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    digest = hashlib.sha256(dtype.str.encode())
    index: list[tuple[int, int]] = []
    tokens = 0
    with (folder / "tokens.bin").open("wb") as file:
        while batch := list(islice(pieces, _BATCH_PIECES)):
            # disallowed_special=(): in training text "<|endoftext|>" is text like any other, never a control
            # token.
            encoded = tokenizer.encode_batch([piece.text for piece in batch], disallowed_special=())
            for piece, ids in zip(batch, encoded, strict=True):
                raw = np.array([*ids, end_of_text] if piece.ends_document else ids, dtype=dtype).tobytes()
                file.write(raw)
                digest.update(len(raw).to_bytes(8, "little") + raw)
                tokens += len(raw) // dtype.itemsize
                index.append((tokens, _text_hash(piece.text)))
            on_progress(tokens)
    if not index:
        raise ValueError("data: no text in it (every document is empty)")
    np.save(folder / "pieces.npy", np.array(index, dtype=_PIECE))
    about = {"format": _FORMAT, "dtype": dtype.str, "tokens": tokens, "digest": digest.hexdigest()}
    (folder / "store.json").write_text(json.dumps(about, indent=1))


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _publish(unfinished: Path, folder: Path) -> None:
    try:
        os.replace(unfinished, folder)
    except OSError:
        if not (folder / "store.json").is_file():  # else another process was faster, with the same content
            raise
