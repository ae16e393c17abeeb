"""Load a checkpoint, whatever its format, into a network."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyllm.checkpoints import hf_bert, hf_t5
from pyllm.checkpoints.gguf import read_gguf
from pyllm.checkpoints.gguf_config import config_from_gguf
from pyllm.checkpoints.gguf_model import model_tensors
from pyllm.checkpoints.hf_config import config_from_hf
from pyllm.checkpoints.hf_names import from_hf
from pyllm.checkpoints.keep_quantized import keep_quantized
from pyllm.checkpoints.packed_cache import cached_weights
from pyllm.checkpoints.progress import track
from pyllm.checkpoints.quantized_folder import merge_quantized
from pyllm.checkpoints.safetensors_files import read_folder, read_json
from pyllm.checkpoints.stored import StoredTensor, common_dtype
from pyllm.models.encoder import Encoder, EncoderConfig
from pyllm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from pyllm.models.transformer import Transformer

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_TOKENIZER_FILES = ("tokenizer.json", "tekken.json", "tokenizer.model", "spiece.model", "vocab.txt")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model: `tokenizer_path` is what `pyllm.Tokenizer.from_file` takes, None if there is no tokenizer.

    `network` is a `Transformer`, an `Encoder` where config is an `EncoderConfig`, or an `EncoderDecoder` where it is an
    `EncoderDecoderConfig`.
    """

    network: Any
    config: Any
    tokenizer_path: Path | None


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str | None = None,
) -> Checkpoint:
    """Load a .gguf file, or a folder with config.json and safetensors, into a network in eval mode.

    Every tensor of the network must be in the file with the shape the configuration gives, and nothing else may be
    there. A progress bar shows on a terminal when it takes more than two seconds.

    Args:
        dtype: of the weights: float64, float32, bfloat16 or float16 (as a torch dtype or by name), or "auto": as
            stored. Quantized weights then stay quantized: layers compute on their codes (`QuantizedLinear`), with
            float32 activations. Those of a format without kernels, and all of them with a dtype asked for, are
            dequantized.
        device: where the weights go, the CPU by default.

    Raises:
        FileNotFoundError: nothing is there; for a name like "org/name" it says how to download the model.
        ValueError: the files are damaged, of an unknown architecture, or do not fit together; names the culprit.
    """
    path = Path(path)
    _check_exists(path)
    requested = _dtype_argument(dtype)
    if path.suffix == ".safetensors":
        raise ValueError(f"{path}: give the folder that holds it and its config.json")
    if path.is_file():
        config, stored, tokenizer_path = _open_gguf(path)
    else:
        config, stored, tokenizer_path = _open_folder(path)
    _check_size(path, config, stored)
    kinds: dict[type, Any] = {EncoderConfig: Encoder, EncoderDecoderConfig: EncoderDecoder}
    network: Any = kinds.get(type(config), Transformer)(config, device="meta")
    wanted = _select(path, network, stored)
    target = requested or common_dtype(wanted)
    total = sum(tensor.nbytes for tensor in wanted.values())
    pairs = ((tensor.nbytes, (name, tensor)) for name, tensor in wanted.items())
    state: dict[str, Tensor] = {}
    keeps = requested is None and torch.device(device or "cpu").type == "cpu"
    cached = cached_weights(path) if keeps and path.is_file() else None
    for name, tensor in track(pairs, total, f"Loading {path.name}"):
        packed = tensor if cached is None else cached.through(name, tensor)
        if keeps and keep_quantized(network, name, packed, target):
            continue
        state[name] = _read(path, tensor, target).to(device or "cpu")
    _assign(network, state)
    if cached is not None:
        cached.save()
    return Checkpoint(network.eval().to(device or "cpu"), config, tokenizer_path)


def _assign(network: Any, state: dict[str, Tensor]) -> None:
    """Puts `state` into the network; what is not in it has been replaced by quantized layers."""
    missing = network.load_state_dict(state, assign=True, strict=not network.is_quantized).missing_keys
    for name in missing:
        raise ValueError(f"tensor {name!r} missing")


def _read(path: Path, tensor: StoredTensor, dtype: torch.dtype) -> Tensor:
    try:
        return tensor.read(dtype)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None


def _open_gguf(path: Path) -> tuple[Any, dict[str, StoredTensor], Path | None]:
    file = read_gguf(path)
    config = config_from_gguf(file)
    has_tokenizer = "tokenizer.ggml.tokens" in file.metadata
    return config, model_tensors(file, config), path if has_tokenizer else None


def _open_folder(path: Path) -> tuple[Any, dict[str, StoredTensor], Path | None]:
    if not (path / "config.json").exists():
        found = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"; to load a GGUF file give its own path ({', '.join(found[:4])})" if found else ""
        raise FileNotFoundError(f"{path} has no config.json{hint}")
    try:
        data = read_json(path / "config.json")
        architectures = data.get("architectures")
        if architectures == [hf_bert.ARCHITECTURE]:
            stored = read_folder(path)
            return (
                hf_bert.bert_config_from_hf(data, stored),
                hf_bert.bert_from_hf(stored),
                _find_tokenizer(path),
            )
        if architectures == [hf_t5.ARCHITECTURE]:
            stored = read_folder(path)
            both = hf_t5.t5_config_from_hf(data, stored)
            return both, hf_t5.t5_from_hf(both, stored), _find_tokenizer(path)
        config = config_from_hf(data)
        stored = read_folder(path)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path / 'config.json'}: {error}") from None
    config = dataclasses.replace(config, eos_token_ids=_end_tokens(path, config))
    try:
        if data.get("quantization_config") is not None:
            stored = merge_quantized(data["quantization_config"], stored)
        stored = from_hf(config, stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config, stored, _find_tokenizer(path)


def _end_tokens(folder: Path, config: Any) -> tuple[int, ...]:
    """Tokens that end a text: those of config.json and of generation_config.json, which often knows more."""
    path = folder / "generation_config.json"
    more = read_json(path).get("eos_token_id") if path.exists() else None
    ids = more if isinstance(more, list) else [more]
    return tuple(dict.fromkeys([*config.eos_token_ids, *(token for token in ids if isinstance(token, int))]))


def _find_tokenizer(folder: Path) -> Path | None:
    for name in _TOKENIZER_FILES:
        if (folder / name).is_file():
            return folder / name
    return folder if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file() else None


def _check_exists(path: Path) -> None:
    if path.exists():
        return
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise FileNotFoundError(
            f"{path} is not a file or folder here. If you mean the model on the Hugging Face Hub, download it first: "
            f"`hf download {path} --local-dir {path.name}`, then load {path.name!r}"
        )
    raise FileNotFoundError(f"{path} does not exist; expected a .gguf file or a folder with config.json")


def _dtype_argument(dtype: torch.dtype | str) -> torch.dtype | None:
    if dtype == "auto":
        return None
    named = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if named not in _DTYPES.values():
        raise ValueError(f"dtype must be 'auto' or one of {sorted(_DTYPES)}, got {dtype!r}")
    return named


def _check_size(path: Path, config: Any, stored: dict[str, StoredTensor]) -> None:
    """Stop a configuration that promises far more than the file holds before a network of that size is built."""
    held = sum(torch.Size(tensor.shape).numel() for tensor in stored.values())
    promised = config.num_parameters()
    if promised > 2 * held:
        raise ValueError(f"{path}: the configuration describes {promised} parameters, the file holds {held}")


def _select(path: Path, network: Any, stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The stored tensor of each of the network's, after checking that names and shapes are the same."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [name for name in expected if name not in stored]
    if missing:
        raise ValueError(f"{path}: {_listed(missing)} missing")
    unexpected = [name for name in stored if name not in expected]
    if network.config.tie_word_embeddings and "lm_head.weight" in unexpected:
        _check_tied(path, stored)
        unexpected.remove("lm_head.weight")
    if unexpected:
        raise ValueError(f"{path}: {_listed(unexpected)} not expected by {network.config.model_type}")
    for name, shape in expected.items():
        tensor = stored[name]
        if tensor.shape != shape:
            raise ValueError(f"{path}: {name!r} has shape {tensor.shape}, the configuration says {shape}")
        if tensor.dtype is not None and not tensor.dtype.is_floating_point:
            raise ValueError(f"{path}: {name!r} is stored as {tensor.dtype}, expected floating point")
    return {name: stored[name] for name in expected}


def _check_tied(path: Path, stored: dict[str, StoredTensor]) -> None:
    head, embedding = stored["lm_head.weight"], stored["model.embed_tokens.weight"]
    if head.shape != embedding.shape or not torch.equal(
        head.read(torch.float32), embedding.read(torch.float32)
    ):
        raise ValueError(
            f"{path}: lm_head.weight differs from the embedding although tie_word_embeddings is true"
        )


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {shown}{more}"
