"""A model as a quantized Hugging Face folder: compressed-tensors' integers, or bitsandbytes' NF4."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pyllm.checkpoints.atomic import atomic_path
from pyllm.checkpoints.hf_config import config_to_hf
from pyllm.checkpoints.hf_names import is_as_ours
from pyllm.checkpoints.integer_weight import IntegerWeight
from pyllm.checkpoints.quantized_parts import int8_parts, nf4_parts, packed_parts
from pyllm.checkpoints.safetensors_files import INDEX, WEIGHTS
from pyllm.models.transformer import Transformer
from pyllm.quantization.quantize import quantize_nf4, quantize_to_integers


def save_quantized(network: Transformer, folder: str | os.PathLike[str], format: str) -> None:
    """Writes config.json and model.safetensors with the linear layers of the decoder's blocks in `format`.

    transformers loads such a folder where compressed-tensors or bitsandbytes is installed; so does `pyllm.load`.

    Args:
        format: "int8" and "int4" with their endings, see `pyllm.quantization.quantize`, or "nf4".

    Raises:
        ValueError: an unknown format, a network that is quantized already or has weights that the format cannot hold, a
            family whose tensors lie otherwise in its folders (Phi-3, GPT-2, experts), or a folder that holds a sharded
            checkpoint.
    """
    folder = Path(folder)
    if network.is_quantized:
        raise ValueError("the network is quantized already; load it with a dtype, which dequantizes it")
    if not is_as_ours(network.config.model_type):
        raise ValueError(f"a {network.config.model_type} is not written as a quantized folder")
    if (folder / INDEX).exists():
        raise ValueError(f"{folder} holds a sharded checkpoint ({INDEX}); save to another folder")
    config = config_to_hf(network.config, network.dtype)
    linears = {
        f"{name}.weight"
        for name, m in network.model.named_modules(prefix="model")
        if isinstance(m, torch.nn.Linear)
    }
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name not in linears:
            tensors[name] = tensor.detach().cpu().contiguous()
            continue
        parts, config["quantization_config"] = _parts(name.removesuffix(".weight"), tensor, format)
        tensors |= parts
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS) as weights, atomic_path(folder / "config.json") as described:
        save_file(tensors, weights, metadata={"format": "pt"})
        described.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _parts(module: str, weight: Tensor, format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The stored tensors of a weight, and config.json's quantization_config."""
    try:
        if format == "nf4":
            dtype = str(weight.dtype).removeprefix("torch.")
            return nf4_parts(quantize_nf4(weight), module, dtype), _nf4_settings(dtype)
        quantized = quantize_to_integers(weight, format)
    except ValueError as error:
        raise ValueError(f"{module}: {error}") from None
    symmetric = not format.endswith("_zp")
    write = int8_parts if quantized.bits == 8 and quantized.scales.shape[1] == 1 else packed_parts
    return write(quantized, module, symmetric=symmetric), _integer_settings(quantized, symmetric)


def _integer_settings(weight: IntegerWeight, symmetric: bool) -> dict[str, Any]:
    per_row = weight.scales.shape[1] == 1
    form = "int-quantized" if weight.bits == 8 and per_row else "pack-quantized"
    scheme = {
        "num_bits": weight.bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if per_row else "group",
        "group_size": None if per_row else weight.codes.shape[1] // weight.scales.shape[1],
        "dynamic": False,
    }
    group = {"targets": ["Linear"], "weights": scheme, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _nf4_settings(dtype: str) -> dict[str, Any]:
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": ["lm_head"],
    }
