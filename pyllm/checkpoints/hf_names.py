"""State-dict names and layouts of Hugging Face folders to ours and back, family by family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyllm.checkpoints.stored import StoredTensor, split_rows, stacked, transposed
from pyllm.models.config import ModelConfig


@dataclass(frozen=True)
class NameMap:
    """How a family's folder lies beside our state dict. The default: the same names and layouts.

    Attributes:
        layers: what layers are called, "model.layers".
        stems: our name of a module -> theirs; inside a layer without the layer's own name.
        fused: their module -> ours that it holds, rows one behind another.
        experts: (their name of expert {}, {their projection: ours}).
        is_transposed: matrices inside layers are stored (in, out).
        may_lack: a beginning of their names that some files leave out.
        derived: ends of names that files carry although they follow from the configuration.
    """

    layers: str = "model.layers"
    stems: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    experts: tuple[str, Mapping[str, str]] | None = None
    is_transposed: bool = False
    may_lack: str = ""
    derived: tuple[str, ...] = (".rotary_emb.inv_freq",)


_GPT2_LAYER = {
    "input_layernorm": "ln_1",
    "self_attn.o_proj": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_GPT2_TOP = {
    "model.embed_tokens": "transformer.wte",
    "model.embed_positions": "transformer.wpe",
    "model.norm": "transformer.ln_f",
}
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GPT2 = NameMap(
    layers="transformer.h",
    stems=_GPT2_TOP | _GPT2_LAYER,
    fused={"attn.c_attn": _QKV},
    is_transposed=True,
    may_lack="transformer.",
    derived=(".attn.bias", ".attn.masked_bias"),
)
_QWEN_MOE = NameMap(
    experts=("mlp.experts.{}", {name: name for name in ("gate_proj", "up_proj", "down_proj")})
)
_MAPS = {
    "gpt2": _GPT2,
    "gpt3": _GPT2,
    "gpt_neo": NameMap(
        layers="transformer.h",
        stems=_GPT2_TOP
        | _GPT2_LAYER
        | {name: name.replace("self_attn", "attn.attention") for name in _QKV}
        | {"self_attn.o_proj": "attn.attention.out_proj"},
        derived=(".attention.bias", ".attention.masked_bias"),
    ),
    "phi3": NameMap(fused={"self_attn.qkv_proj": _QKV, "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj")}),
    "mixtral": NameMap(
        stems={"mlp.gate": "block_sparse_moe.gate"},
        experts=(
            "block_sparse_moe.experts.{}",
            {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"},
        ),
    ),
    "qwen2_moe": _QWEN_MOE,
    "qwen3_moe": _QWEN_MOE,
}


def is_as_ours(model_type: str) -> bool:
    """Whether a family's folder has our names and layouts."""
    return model_type not in _MAPS


def from_hf(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of a folder under our names, in our layouts; those without a rule keep theirs.

    Raises:
        ValueError: a fused tensor or the experts of a layer do not have the configuration's shapes; names it.
    """
    names = _MAPS.get(config.model_type, NameMap())
    theirs_to_ours = {theirs: ours for ours, theirs in names.stems.items()}
    result: dict[str, StoredTensor] = {}
    experts: dict[str, dict[int, StoredTensor]] = {}
    for name, tensor in stored.items():
        if name.endswith(names.derived):
            continue
        if names.may_lack and not name.startswith((names.may_lack, "lm_head.")):
            name = names.may_lack + name
        layer, stem, suffix = _cut(name, names.layers)
        prefix = "" if layer is None else f"model.layers.{layer}."
        # Quantizers store even these (out, in).
        if layer is not None and names.is_transposed and len(tensor.shape) == 2 and not tensor.quantized:
            tensor = transposed(tensor)
        expert = _expert(names, stem)
        if layer is not None and stem in names.fused:
            ours = names.fused[stem]
            try:
                parts = split_rows(tensor, [_rows_of(config, part) for part in ours])
            except ValueError as error:
                raise ValueError(f"tensor {name!r} {error}") from None
            result |= {f"{prefix}{part}{suffix}": t for part, t in zip(ours, parts, strict=True)}
        elif layer is not None and expert is not None:
            number, projection = expert
            experts.setdefault(f"{prefix}mlp.experts.{projection}{suffix}", {})[number] = tensor
        else:
            result[f"{prefix}{theirs_to_ours.get(stem, stem)}{suffix}"] = tensor
    return result | {name: _stacked(config, name, parts) for name, parts in experts.items()}


def to_hf(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_hf` for tensors: what a folder of the family holds."""
    names = _MAPS.get(config.model_type, NameMap())
    fused = {part: (theirs, parts) for theirs, parts in names.fused.items() for part in parts}
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, stem, suffix = _cut(name, "model.layers")
        prefix = "" if layer is None else f"{names.layers}.{layer}."
        if stem in fused:
            theirs, parts = fused[stem]
            if stem != parts[0]:
                continue
            stem = theirs
            tensor = torch.cat([state[f"model.layers.{layer}.{part}{suffix}"] for part in parts])
        elif names.experts is not None and stem.startswith("mlp.experts."):
            pattern, projections = names.experts
            ours = stem.removeprefix("mlp.experts.")
            theirs = next(theirs for theirs, projection in projections.items() if projection == ours)
            for number, part in enumerate(tensor):
                result[f"{prefix}{pattern.format(number)}.{theirs}{suffix}"] = part.contiguous()
            continue
        if layer is not None and names.is_transposed and tensor.dim() == 2:
            tensor = tensor.t().contiguous()
        result[f"{prefix}{names.stems.get(stem, stem)}{suffix}"] = tensor
    return result


def _cut(name: str, layers: str) -> tuple[int | None, str, str]:
    """(layer or None, name of the module inside it, ".weight" or what else the name ends in)."""
    stem, dot, last = name.rpartition(".")
    match = re.fullmatch(rf"{re.escape(layers)}\.(\d{{1,5}})\.(.+)", stem)
    return (None, stem, dot + last) if match is None else (int(match[1]), match[2], dot + last)


def _expert(names: NameMap, stem: str) -> tuple[int, str] | None:
    """(number, our projection) if `stem` is one of an expert's matrices."""
    if names.experts is None:
        return None
    pattern, projections = names.experts
    match = re.fullmatch(re.escape(pattern).replace(r"\{\}", r"(\d{1,5})") + r"\.(\w+)", stem)
    return None if match is None or match[2] not in projections else (int(match[1]), projections[match[2]])


def _rows_of(config: ModelConfig, module: str) -> int:
    """Rows of one of the matrices that families fuse."""
    if module == "self_attn.q_proj":
        return config.num_attention_heads * config.head_dim
    if module in ("self_attn.k_proj", "self_attn.v_proj"):
        return config.num_key_value_heads * config.head_dim
    return config.intermediate_size


def _stacked(config: ModelConfig, name: str, parts: Mapping[int, StoredTensor]) -> StoredTensor:
    count = 0 if config.experts is None else config.experts.num_experts
    if sorted(parts) != list(range(count)):
        raise ValueError(f"{name!r} has the experts {sorted(parts)[:8]}, expected 0 to {count - 1}")
    try:
        return stacked([parts[number] for number in range(count)])
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None
