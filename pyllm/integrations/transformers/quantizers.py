"""Entries of transformers' quantizer mapping, so that `from_pretrained` keeps quantized checkpoints as they are stored.

Imported only where transformers is there.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer

from pyllm.checkpoints.quantized_folder import merge_quantized
from pyllm.checkpoints.safetensors_files import read_folder, read_json
from pyllm.integrations.transformers import overrides
from pyllm.integrations.transformers.packed_checkpoints import PackedCheckpoint
from pyllm.integrations.transformers.report import PatchReport

_METHODS = ("gptq", "awq", "bitsandbytes_4bit", "bitsandbytes_8bit", "compressed-tensors", "fp8")


def register_quantizers(report: PatchReport) -> None:
    """Puts ours in the place of transformers' entries, until `unpatch`."""
    mapping = auto.AUTO_QUANTIZER_MAPPING
    for method in (*_METHODS, "gguf"):
        theirs = mapping.get(method)
        if theirs is None or (method == "gguf" and not _reads_gguf()):
            report.leave(f"{method} checkpoints", "this transformers has no quantizer for them")
            continue
        if not hasattr(theirs, "pyllm_patch"):
            overrides.set_item(mapping, method, _gguf() if method == "gguf" else _in_place_or(theirs))
        report.add("quantized", method, method)


def _reads_gguf() -> bool:
    return importlib.util.find_spec("transformers.quantizers.quantizer_gguf") is not None


def _gguf() -> Any:
    from pyllm.integrations.transformers.gguf_quantizer import GGUFQuantizer

    return GGUFQuantizer


def _in_place_or(theirs: Any) -> Callable[..., Any]:
    """What makes a quantizer: ours for a checkpoint that comes quantized, theirs to quantize now or to dequantize."""

    def make(quantization_config: Any, **options: Any) -> Any:
        if not options.get("pre_quantized", True) or getattr(quantization_config, "dequantize", False):
            return theirs(quantization_config, **options)
        return PackedQuantizer(quantization_config, **options)

    make.__dict__["pyllm_patch"] = True
    return make


def check_device(device_map: Any) -> None:
    """Raises ValueError where a model that stays packed would go anywhere but to the CPU."""
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    for place in places:
        if place in (None, "auto", "balanced", "balanced_low_0", "sequential"):
            continue
        if place == "disk" or torch.device(place).type != "cpu":
            raise ValueError(
                f"device_map: checkpoints stay quantized on the CPU only, got {place!r}; "
                "pyllm.patch(quantized=False) leaves them to transformers"
            )


class PackedQuantizer(HfQuantizer):
    """Loads a folder of quantized safetensors into layers that compute on its codes; only adapters can be trained."""

    requires_calibration = False
    is_trainable = True

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        check_device(device_map)

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        if not checkpoint_files or not checkpoint_files[0].endswith(".safetensors"):
            raise ValueError(f"quantized checkpoints must be safetensors, got {checkpoint_files}")
        folder = Path(checkpoint_files[0]).parent
        stored = read_folder(folder)
        merged = merge_quantized(read_json(folder / "config.json").get("quantization_config"), stored)
        taken = [name for name in stored if name not in merged or merged[name].quantized is not None]
        self.checkpoint = PackedCheckpoint(model, merged, model.dtype)
        self.checkpoint.replace_layers(freeze_the_rest=True)
        prefix = re.escape(f"{model.base_model_prefix}.")
        names = "|".join(re.escape(name.removeprefix(f"{model.base_model_prefix}.")) for name in taken)
        ignored = set(model._keys_to_ignore_on_load_unexpected or ())
        model._keys_to_ignore_on_load_unexpected = ignored | {rf"^(?:{prefix})?(?:{names})$"}

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        self.checkpoint.fill()
        return model

    def is_serializable(self, **kwargs: Any) -> bool:
        return False
