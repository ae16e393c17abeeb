"""Which layers of a transformers model stay as a checkpoint holds them: replaced before its weights are loaded, filled
after.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

from pyllm.checkpoints.stored import StoredTensor
from pyllm.integrations.transformers.packed_layers import (
    FrozenLinear,
    PackedEmbedding,
    PackedExperts,
    PackedLinear,
)
from pyllm.ops import QuantizedTensor, _library

Fill = Callable[[], None]
_EXPERT = re.compile(r"(.+\.experts)\.(?:(\d{1,5})\.)?(gate_proj|up_proj|down_proj|w1|w3|w2)\.weight")
_PROJECTIONS = {"w1": "gate", "w3": "up", "w2": "down"}


class PackedCheckpoint:
    """The tensors of one checkpoint and the model they go into.

    Args:
        model: a transformers model on the meta device.
        stored: the tensors, under transformers' names.
        dtype: of the rows of embeddings, and of weights whose format has no kernels.

    Attributes:
        plain: what is left for transformers to load, by name.
    """

    def __init__(
        self, model: torch.nn.Module, stored: Mapping[str, StoredTensor], dtype: torch.dtype
    ) -> None:
        self.model, self.dtype = model, dtype
        self.plain = dict(stored)
        self._fills: list[Fill] = []

    def replace_layers(self, *, freeze_the_rest: bool) -> None:
        """Puts our layers in the place of those whose weights are quantized.

        Args:
            freeze_the_rest: weights without kernels are dequantized here, and not left in `plain`.

        Raises:
            ValueError: a quantized weight belongs to no layer that can hold it; names it.
        """
        for name in [name for name, tensor in self.plain.items() if tensor.quantized is not None]:
            if _EXPERT.fullmatch(name) is None and self._replace(name):
                del self.plain[name]
            elif freeze_the_rest and _EXPERT.fullmatch(name) is None:
                self._freeze(name)
        for path, parts in _experts(self.plain).items():
            self._replace_experts(path, parts)

    def fill(self) -> None:
        """Gives the new layers their weights; after this the checkpoint is not needed."""
        for fill in self._fills:
            fill()
        self._fills.clear()
        self.plain.clear()

    def _find(self, path: str) -> tuple[str, torch.nn.Module | None]:
        """A module by its name in the checkpoint, which may be of the bare model or of one with a head."""
        prefix = f"{getattr(self.model, 'base_model_prefix', '')}."
        modules = dict(self.model.named_modules())
        for name in (path, prefix + path, path.removeprefix(prefix)):
            if name in modules:
                return name, modules[name]
        return path, None

    def _replace(self, name: str) -> bool:
        tensor = self.plain[name]
        path, module = self._find(name.removesuffix(".weight"))
        if isinstance(module, torch.nn.Embedding):
            return self._replace_embedding(path, module, tensor)
        packed = _packed(tensor) if _is_linear(module) else None
        if packed is None or module is None:
            return False
        self._put_linear(path, module, packed)
        return True

    def _put_linear(self, path: str, module: torch.nn.Module, packed: QuantizedTensor) -> None:
        layer = PackedLinear(module, packed.shape)
        self.model.set_submodule(path, layer)
        self._fills.append(lambda: layer.pack(packed))

    def _replace_embedding(self, path: str, module: torch.nn.Embedding, tensor: StoredTensor) -> bool:
        known = type(module) is torch.nn.Embedding or hasattr(module, "scalar_embed_scale")
        if tensor.blocks is None or not known:
            return False
        ties: dict[str, str] = getattr(self.model, "all_tied_weights_keys", {})
        heads = [target for target, source in ties.items() if source == f"{path}.weight"]
        for head in heads:
            packed = _packed(tensor)
            if packed is None:
                return False
            self._put_linear(
                head.removesuffix(".weight"), self.model.get_submodule(head.removesuffix(".weight")), packed
            )
        self._untie(heads)
        format, rows = tensor.blocks
        layer = PackedEmbedding(module, self.dtype)
        self.model.set_submodule(path, layer)
        self._fills.append(lambda: layer.pack(format, rows()))
        return True

    def _untie(self, heads: list[str]) -> None:
        """The head is packed for products, the embedding lies in rows: one table in two layouts, not one parameter."""
        for attribute in ("all_tied_weights_keys", "_tied_weights_keys"):
            ties = getattr(self.model, attribute, None)
            if isinstance(ties, dict):
                kept = {target: source for target, source in ties.items() if target not in heads}
                setattr(self.model, attribute, kept)

    def _freeze(self, name: str) -> None:
        path, module = self._find(name.removesuffix(".weight"))
        if module is None or not _is_linear(module):
            raise ValueError(f"{name!r} is quantized, but the model has no linear layer of that name")
        tensor = self.plain.pop(name)
        layer = FrozenLinear(module, tensor.shape)
        self.model.set_submodule(path, layer)
        self._fills.append(lambda: layer.fill(tensor.read(self.dtype)))

    def _replace_experts(self, path: str, parts: dict[str, list[StoredTensor]]) -> None:
        found, module = self._find(path)
        if module is None:
            raise ValueError(f"{path!r} holds quantized experts, but the model has none there")
        packed = {
            name: [p for p in map(_packed, tensors) if p is not None] for name, tensors in parts.items()
        }
        counts = {name: len(weights) for name, weights in packed.items()}
        expected = dict.fromkeys(("gate", "up", "down"), getattr(module, "num_experts", 0))
        if counts != expected:
            raise ValueError(f"{path!r}: quantized experts must be {expected} with kernels, got {counts}")
        layer = PackedExperts(module)
        self.model.set_submodule(found, layer)
        self._fills.append(lambda: layer.pack(**packed))
        for name in [name for name in self.plain if name.startswith(f"{path}.")]:
            del self.plain[name]


def _experts(stored: Mapping[str, StoredTensor]) -> dict[str, dict[str, list[StoredTensor]]]:
    """Quantized experts by layer and projection, in the order of their numbers."""
    found: dict[str, dict[str, dict[int, StoredTensor]]] = {}
    for name, tensor in stored.items():
        match = _EXPERT.fullmatch(name)
        parts = tensor.parts if tensor.parts else (tensor,)
        if match is None or any(part.quantized is None for part in parts):
            continue
        kind = _PROJECTIONS.get(match[3], match[3].removesuffix("_proj"))
        projection = found.setdefault(match[1], {}).setdefault(kind, {})
        first = int(match[2] or 0)
        projection.update(enumerate(parts, first))
    return {
        path: {name: [numbered[i] for i in sorted(numbered)] for name, numbered in projections.items()}
        for path, projections in found.items()
    }


def _is_linear(module: torch.nn.Module | None) -> bool:
    return type(module) is torch.nn.Linear or type(module).__name__ == "Conv1D"


def _packed(tensor: StoredTensor) -> QuantizedTensor | None:
    """None where the format has no kernels."""
    if tensor.quantized is None or not _library.LOADED:
        return None
    try:
        with torch.device("cpu"):  # transformers makes models under the meta device
            return tensor.quantized()
    except ValueError:
        return None
