"""safetensors: one file, or shards with an index. The format's own library checks every header."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyllm.checkpoints.stored import StoredTensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
}


def read_folder(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a Hugging Face folder, by name.

    Raises:
        ValueError: a file is damaged, a shard is missing or holds other tensors than the index says, or a tensor
            has a dtype that is not read.
        FileNotFoundError: the folder has no safetensors weights.
    """
    if (folder / WEIGHTS).exists():
        return _read_file(folder / WEIGHTS)
    if (folder / INDEX).exists():
        return _read_shards(folder)
    others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    hint = f"; {others} are pickles, which are never opened" if others else ""
    raise FileNotFoundError(f"{folder} has neither {WEIGHTS} nor {INDEX}{hint}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError, which names the file, if it holds anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(data).__name__}")
    return data


def _read_shards(folder: Path) -> dict[str, StoredTensor]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{folder / INDEX} has no weight_map of tensor names to file names")
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{folder / INDEX} names {name!r}, which is no safetensors file of this folder")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / INDEX} names {name!r}, which is missing")
        shard = _read_file(folder / name)
        promised = {tensor for tensor, file in weight_map.items() if file == name}
        if promised != set(shard):
            differing = sorted(promised ^ set(shard))
            raise ValueError(f"{folder / name} and {INDEX} disagree about {_some(differing)}")
        tensors |= shard
    return tensors


def _read_file(path: Path) -> dict[str, StoredTensor]:
    with _named_errors(path):
        file = safe_open(path, framework="pt")
        return {name: _stored(path, file, name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _stored(path: Path, file: Any, name: str) -> StoredTensor:
    view = file.get_slice(name)
    kind = view.get_dtype()
    if kind not in _DTYPES:
        raise ValueError(f"{path}: tensor {name!r} has dtype {kind}, which is not read")
    shape, dtype = tuple(view.get_shape()), _DTYPES[kind]

    def read(wanted: torch.dtype) -> Tensor:
        with _named_errors(path):
            # A copy, even where the dtype fits: memory of its own does not change or vanish with the file.
            return file.get_tensor(name).to(wanted, copy=True)

    nbytes = dtype.itemsize * torch.Size(shape).numel()
    return StoredTensor(shape, dtype, nbytes, read)


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path} is not a sound safetensors file: {error}") from None


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
