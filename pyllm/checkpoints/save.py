"""Write a network as a Hugging Face folder."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pyllm.checkpoints.atomic import atomic_path
from pyllm.checkpoints.hf_bert import bert_config_to_hf, bert_to_hf
from pyllm.checkpoints.hf_config import config_to_hf
from pyllm.checkpoints.hf_names import to_hf
from pyllm.checkpoints.hf_t5 import t5_config_to_hf, t5_to_hf
from pyllm.checkpoints.safetensors_files import INDEX, WEIGHTS
from pyllm.models.encoder import Encoder
from pyllm.models.encoder_decoder import EncoderDecoder
from pyllm.models.transformer import Transformer
from pyllm.nn.mixture_of_experts import QuantizedExpertLinear
from pyllm.nn.quantized import QuantizedEmbedding, QuantizedLinear


def save_checkpoint(network: Transformer | Encoder | EncoderDecoder, folder: str | os.PathLike[str]) -> None:
    """Write config.json and model.safetensors, which transformers' auto classes load.

    The folder is made if it is missing. Both files are written whole beside their place and renamed; a tied head is
    stored once. Weights keep their dtype; quantized ones are dequantized to that of the network.

    Raises:
        ValueError: the configuration cannot be expressed as config.json, or the folder holds a sharded checkpoint,
            whose index would contradict the new file.
    """
    folder = Path(folder)
    state = {name: tensor.detach().cpu() for name, tensor in plain_state_dict(network).items()}
    if isinstance(network, Encoder):
        config, state = bert_config_to_hf(network.config, network.dtype), bert_to_hf(state)
    elif isinstance(network, EncoderDecoder):
        config = t5_config_to_hf(network.config, network.dtype)
        state = t5_to_hf(network.config, state)
    else:
        config, state = config_to_hf(network.config, network.dtype), to_hf(network.config, state)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).exists():
        raise ValueError(f"{folder} holds a sharded checkpoint ({INDEX}); save to another folder")
    with contextlib.ExitStack() as files:
        weights_path = files.enter_context(atomic_path(folder / WEIGHTS))
        config_path = files.enter_context(atomic_path(folder / "config.json"))
        save_file(tensors, weights_path, metadata={"format": "pt"})
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def plain_state_dict(network: Transformer | Encoder | EncoderDecoder) -> dict[str, Tensor]:
    """The state dict that the network would have without quantization: quantized weights in the network's dtype."""
    state = dict(network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, QuantizedExpertLinear):
            weights = [weight.dequantize(network.dtype) for weight in module.weights]
            state[f"{name}.weight"] = torch.stack(weights)
        elif isinstance(module, QuantizedLinear):
            state[f"{name}.weight"] = module.weight.dequantize(network.dtype)
        elif isinstance(module, QuantizedEmbedding):
            state[f"{name}.weight"] = module(torch.arange(module.blocks.shape[0]))
    return state
