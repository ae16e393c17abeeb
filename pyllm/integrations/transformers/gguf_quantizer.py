"""GGUF files in place: transformers' own quantizer for them, with pyllm's reader where both know the family.

Imported only where transformers has one (5.20 and later).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.quantizers.quantizer_gguf import GgufHfQuantizer
from transformers.utils import logging

from pyllm.checkpoints.gguf import read_gguf
from pyllm.checkpoints.gguf_config import ARCHITECTURES, config_from_gguf
from pyllm.checkpoints.gguf_model import model_tensors
from pyllm.checkpoints.hf_names import is_as_ours
from pyllm.checkpoints.stored import StoredTensor
from pyllm.integrations.transformers.packed_checkpoints import PackedCheckpoint
from pyllm.integrations.transformers.quantizers import check_device

# Their stacked experts have names of their own; everything else is called as in our state dict.
_EXPERTS = ("qwen2_moe", "qwen3_moe")

logger = logging.get_logger(__name__)


class GGUFQuantizer(GgufHfQuantizer):
    """Loads a GGUF file into layers that compute on its blocks. Frozen; adapters can be trained.

    Families whose tensors transformers arranges otherwise (Phi-3, GPT-2, Mixtral), and those that pyllm does not read,
    are loaded by transformers.
    """

    pyllm_patch = True
    stored: dict[str, StoredTensor] | None = None
    checkpoint: PackedCheckpoint | None = None

    def read_header(self, gguf_file: str) -> None:
        super().read_header(gguf_file)
        file = read_gguf(gguf_file)
        architecture = file.metadata.get("general.architecture")
        if self.supported or self.quantization_config.dequantize or architecture not in ARCHITECTURES:
            return
        config = config_from_gguf(file)
        if is_as_ours(config.model_type) or config.model_type in _EXPERTS:
            self.stored = model_tensors(file, config)
        else:
            logger.warning(f"{gguf_file}: {config.model_type} is dequantized; pyllm.load keeps it quantized")

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        check_device(device_map)
        super().validate_environment(*args, device_map=device_map, **kwargs)

    def update_dtype(self, dtype: torch.dtype | None) -> torch.dtype:
        if self.stored is None:
            return super().update_dtype(dtype)
        self.dtype = dtype or torch.float32
        return self.dtype

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        if self.stored is None:
            super()._process_model_before_weight_loading(model, **kwargs)
            return
        self.checkpoint = PackedCheckpoint(model, self.stored, self.dtype)
        self.checkpoint.replace_layers(freeze_the_rest=False)

    def get_state_dict(self, checkpoint_file: str, model: Any) -> dict[str, Any]:
        if self.checkpoint is None:
            return super().get_state_dict(checkpoint_file, model)
        return {name: tensor.read(self.dtype) for name, tensor in self.checkpoint.plain.items()}

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        if self.checkpoint is None:
            return super()._process_model_after_weight_loading(model, **kwargs)
        self.checkpoint.fill()
        return model

    @property
    def is_trainable(self) -> bool:
        return self.checkpoint is not None
