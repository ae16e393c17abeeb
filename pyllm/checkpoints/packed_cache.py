"""Packed weights of GGUF files, kept on disk: the next start maps them instead of packing them again.

Off unless `PYLLM_PACKED_CACHE` says how many bytes the files may take ("4G"); they lie in the cache folder
(`PYLLM_CACHE`) and can be deleted at any time. A file is found by the content of the model file and by the library that
packed it. It is written under another name, renamed, and never changed: who has it mapped keeps it, whatever others
write or delete. One that is not what its header says is passed over and written again. The least
recently used make room.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import struct
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pyllm.checkpoints.atomic import atomic_path
from pyllm.checkpoints.stored import StoredTensor
from pyllm.data.cache import cache_folder
from pyllm.ops import QuantizedTensor, _library
from pyllm.ops.quantized_tensor import BLOCKS

_MAGIC = b"PYLLMPK1"
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 64
_PIECE = 1 << 20
_SETTLED_NS = (
    2_000_000_000  # a file changed later than this before it was hashed may change within the same tick
)
_ABANDONED_S = 24 * 3600
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def limit_bytes() -> int:
    """`PYLLM_PACKED_CACHE` in bytes, 0 where it is not set.

    Raises:
        ValueError: it is no size.
    """
    text = os.environ.get("PYLLM_PACKED_CACHE", "0")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"PYLLM_PACKED_CACHE must be a size like 4G or 500M, got {text!r}")
    return int(float(match[1]) * _SIZES[match[2].upper()])


@dataclass
class CachedWeights:
    """The packed weights of one model file: `found` on disk, or `made` now and written by `save`."""

    path: Path
    limit: int
    found: dict[str, QuantizedTensor]
    made: dict[str, QuantizedTensor] = field(default_factory=dict)

    def through(self, name: str, tensor: StoredTensor) -> StoredTensor:
        """`tensor`, packed as it was found, or so that it is noted when it is packed."""
        if tensor.parts:
            parts = tuple(self.through(f"{name}/{i}", part) for i, part in enumerate(tensor.parts))
            return replace(tensor, parts=parts)
        if tensor.quantized is None:
            return tensor
        pack, shape = tensor.quantized, tensor.shape

        def quantized() -> QuantizedTensor:
            weight = self.found.get(name)
            if weight is None or tuple(weight.shape) != shape:
                weight = self.made[name] = pack()
            return weight

        return replace(tensor, quantized=quantized)

    def save(self) -> None:
        """Writes what was packed now, if anything; a folder that cannot be written is a warning."""
        if not self.made:
            return
        try:
            _write(self.path, self.found | self.made, self.limit)
        except OSError as error:
            warnings.warn(f"packed weights were not kept: {error}", stacklevel=3)


def cached_weights(model: Path) -> CachedWeights | None:
    """What is kept of the GGUF file `model`; None where nothing is kept at all."""
    limit = limit_bytes()
    if not limit or not _library.LOADED:
        return None
    folder = cache_folder() / "packed"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_content_digest(model, folder)}-{_library_digest()}.pack"
        return CachedWeights(path, limit, _read(path))
    except OSError as error:
        warnings.warn(f"packed weights are not kept: {error}", stacklevel=3)
        return None


def _library_digest() -> str:
    """Of the library that packs: another build may pack otherwise."""
    stat = _library._PATH.stat()
    return hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]


def _content_digest(model: Path, folder: Path) -> str:
    """SHA-256 of a file; of one whose size, time and place have not changed, as it was last time."""
    stat = model.stat()
    identity = [stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev]
    name = hashlib.sha256(os.fsencode(model.resolve())).hexdigest()[:32]
    note = folder / f"{name}.json"
    try:
        kept = json.loads(note.read_bytes())
        if kept["identity"] == identity and re.fullmatch("[0-9a-f]{64}", kept["digest"]):
            return str(kept["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    started, digest = time.time_ns(), hashlib.sha256()
    with model.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    if stat.st_mtime_ns < started - _SETTLED_NS:
        with atomic_path(note) as temporary:
            temporary.write_text(json.dumps({"identity": identity, "digest": digest.hexdigest()}))
    return digest.hexdigest()


def _read(path: Path) -> dict[str, QuantizedTensor]:
    """The weights of a file, mapped; none if it is not whole and sound."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        weights = _parse(data)
        os.utime(path)  # used now
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return weights


def _parse(data: mmap.mmap) -> dict[str, QuantizedTensor]:
    start = len(_MAGIC) + _LENGTH.size
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        raise ValueError("not packed weights")
    (length,) = _LENGTH.unpack(data[len(_MAGIC) : start])
    header = json.loads(data[start : start + min(length, len(data))])
    if header["size"] != len(data):
        raise ValueError("cut off")
    buffer = torch.frombuffer(data, dtype=torch.uint8)
    return {name: _weight(buffer, entry) for name, entry in header["weights"].items()}


def _weight(buffer: torch.Tensor, entry: dict[str, Any]) -> QuantizedTensor:
    format, (outputs, inputs), offset = entry["format"], entry["shape"], entry["offset"]
    if format not in BLOCKS or not all(
        type(n) is int and 0 <= n < 1 << 40 for n in (outputs, inputs, offset)
    ):
        raise ValueError("not a weight")
    if outputs * inputs >= 1 << 40:
        raise ValueError("not a weight")
    nbytes = torch.ops.pyllm.quantized_packed_bytes(format, outputs, inputs)
    if offset % _ALIGNMENT or offset + nbytes > buffer.numel():
        raise ValueError("beyond the end")
    return QuantizedTensor(format, torch.Size((outputs, inputs)), buffer[offset : offset + nbytes])


def _write(path: Path, weights: dict[str, QuantizedTensor], limit: int) -> None:
    header, size = _header(weights)
    if size > limit:
        return
    _make_room(path, limit - size)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        for weight in weights.values():
            file.write(weight.data.numpy().data)
            file.write(bytes(-weight.data.numel() % _ALIGNMENT))
        file.flush()


def _header(weights: dict[str, QuantizedTensor]) -> tuple[bytes, int]:
    """The bytes before the weights, and the size of the file."""
    starts, end = [], 0
    for weight in weights.values():
        starts.append(end)
        end += -(-weight.data.numel() // _ALIGNMENT) * _ALIGNMENT
    front, first = len(_MAGIC) + _LENGTH.size, 0
    while True:  # offsets grow with the header that holds them
        entries = {
            name: {"format": weight.format, "shape": list(weight.shape), "offset": first + start}
            for (name, weight), start in zip(weights.items(), starts, strict=True)
        }
        text = json.dumps({"size": first + end, "weights": entries}).encode()
        needed = math.ceil((front + len(text)) / 4096) * 4096
        if needed <= first:
            text += b" " * (first - front - len(text))
            return _MAGIC + _LENGTH.pack(len(text)) + text, first + end
        first = needed


def _make_room(path: Path, limit: int) -> None:
    """Deletes the least recently used until the others take at most `limit` bytes, and what a writer left behind."""
    now = time.time()
    for left in path.parent.glob(".*.tmp"):
        if now - left.stat().st_mtime > _ABANDONED_S:
            left.unlink(missing_ok=True)
    kept = [(file.stat(), file) for file in path.parent.glob("*.pack") if file != path]
    total = sum(stat.st_size for stat, _ in kept)
    for stat, file in sorted(kept, key=lambda entry: entry[0].st_mtime_ns):
        if total <= limit:
            break
        file.unlink(missing_ok=True)
        total -= stat.st_size
