"""A quantized weight (out, in) in the layout that pyllm's kernels read; its values are never stored dequantized."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import _library
from pyllm.ops.packed_memory import zeroed_bytes

# Elements of a row of GGUF's blocks, and bytes of a block.
BLOCKS = {
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    "q2_k": (256, 84),
    "q3_k": (256, 110),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
    "iq4_nl": (32, 18),
    "iq4_xs": (256, 136),
    "mxfp4": (32, 17),
}
# Bytes of blocks that are packed at once.
_PIECE = 4 << 20
_INTEGERS = re.compile(r"int(?P<bits>[48])(_g(?P<group>32|64|128))?(?P<zeros>_zp)?(?P<wide>_f32)?")


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedTensor:
    """A weight of a linear layer, quantized and packed (csrc/formats/packed_weight.h). Frozen: it has no gradient.

    Attributes:
        format: "q4_0" and GGUF's other formats in lower case; "int8", "int4" with one scale per output, or per group of
            inputs "int4_g32", "_g64", "_g128"; "_zp" with zero points, "_f32" with scales that float16 does not hold;
            "nf4"; "fp8_e4m3" and "fp8_e4m3_g128".
        shape: (out, in).
        data: the packed bytes, (n,) uint8.
        permutation: (in,) int64 or None: column j of the packed weight is column permutation[j] of the weight (GPTQ's
            act-order, where the columns of a group lie scattered).
    """

    format: str
    shape: torch.Size
    data: Tensor
    permutation: Tensor | None = None

    @classmethod
    def from_blocks(
        cls,
        format: str,
        blocks: Tensor,
        shape: tuple[int, int],
        *,
        on_bytes: Callable[[int], object] | None = None,
    ) -> QuantizedTensor:
        """From the bytes of a GGUF tensor.

        Args:
            format: GGUF's name in any case, "Q4_K" for example.
            blocks: uint8 of any shape, the rows' blocks one after the other as in the file; alignment does not matter.
            shape: (out, in).
            on_bytes: hears how many of the bytes are read, every few megabytes: a mapped file's pages can be let go.

        Raises:
            ValueError: an unknown format, or blocks that are not those of such a weight.
        """
        name = format.lower()
        if name not in BLOCKS:
            raise ValueError(f"from_blocks: format must be one of {', '.join(BLOCKS)}, got {format!r}")
        elements, size = BLOCKS[name]
        outputs, inputs = shape
        if (
            inputs % elements
            or blocks.dtype != torch.uint8
            or blocks.numel() != outputs * (inputs // elements) * size
        ):
            raise ValueError(
                f"from_blocks: blocks must be {size} uint8 bytes for every {elements} elements of a row of "
                f"{tuple(shape)}, got {blocks.numel()} of {blocks.dtype}"
            )
        _need_kernels()
        data = zeroed_bytes(torch.ops.pyllm.quantized_packed_bytes(name, outputs, inputs))
        row_bytes = inputs // elements * size
        rows = max(1, _PIECE // max(1, row_bytes))
        for first in range(0, outputs, rows):
            piece = blocks.reshape(-1)[first * row_bytes : (first + rows) * row_bytes]
            torch.ops.pyllm.quantized_pack_rows(data, piece, name, outputs, inputs, first)
            if on_bytes is not None:
                on_bytes((first + rows) * row_bytes)
        return cls(name, torch.Size((outputs, inputs)), data)

    @classmethod
    def from_codes(
        cls,
        format: str,
        codes: Tensor,
        scales: Tensor,
        zeros: Tensor | None = None,
        *,
        group_index: Tensor | None = None,
    ) -> QuantizedTensor:
        """From codes and scales: value = (code - zero) * scale, or table[code] * scale.

        Args:
            format: "int8" or "int4", "nf4", "fp8_e4m3". Group, zero points and the type of scales follow from the other
                arguments; a full name ("int4_g128_zp") must agree with them.
            codes: (out, in). Integers without zeros: signed (int8: -128 to 127, int4: -8 to 7); with zeros: unsigned
                (0 to 255, 0 to 15). nf4: 0 to 15. fp8_e4m3: torch.float8_e4m3fn, or its bits as uint8.
            scales: (out, groups), any floating type; groups of 32, 64 or 128 neighbouring inputs, or a single one.
            zeros: (out, groups) integers, 0 to 256 for int8, 0 to 16 for int4; or None.
            group_index: (in,), the group of each input where groups are not neighbours (GPTQ's g_idx).

        Raises:
            ValueError: shapes, values or the format's name do not fit.
        """
        if codes.dim() != 2 or scales.dim() != 2 or scales.shape[0] != codes.shape[0]:
            raise ValueError(
                f"from_codes: codes must be (out, in) and scales (out, groups), got {tuple(codes.shape)} "
                f"and {tuple(scales.shape)}"
            )
        group = _group_of(codes.shape[1], scales.shape[1], format)
        permutation = None
        if group_index is not None:
            permutation = _sorting(group_index, codes.shape[1], scales.shape[1], group)
            codes = codes if permutation is None else codes[:, permutation]
        name, stored = _stored_format(format, group, zeros is not None, scales)
        if zeros is not None and zeros.shape != scales.shape:
            raise ValueError(
                f"from_codes: zeros must have the shape of scales, {tuple(scales.shape)}, got {tuple(zeros.shape)}"
            )
        _need_kernels()
        data = torch.ops.pyllm.quantized_pack(
            _stored_codes(name, codes, zeros is not None), stored, _stored_zeros(name, zeros), name
        )
        return cls(name, torch.Size(codes.shape), data, permutation)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """(out, in) values, computed in float32 as the format defines them and rounded once to `dtype`."""
        _need_kernels()
        values: Tensor = torch.ops.pyllm.quantized_unpack(self.data.cpu(), self.format, *self.shape, dtype)
        if self.permutation is not None:
            values = torch.empty_like(values).index_copy_(1, self.permutation.cpu(), values)
        return values.to(self.data.device)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.data.nbytes + (0 if self.permutation is None else self.permutation.nbytes)

    @property
    def device(self) -> torch.device:
        """Where the bytes are."""
        return self.data.device

    def detach(self) -> QuantizedTensor:
        """Itself: it never wants a gradient."""
        return self

    def to(self, device: str | torch.device) -> QuantizedTensor:
        """The same on another device. A dtype means nothing here: `dequantize` takes one."""
        moved = None if self.permutation is None else self.permutation.to(device)
        return replace(self, data=self.data.to(device), permutation=moved)

    def state(self) -> dict[str, Tensor]:
        """Tensors that `from_state` takes, for a state dict: format and shape are written as bytes."""
        header = ",".join((self.format, *(str(size) for size in self.shape))).encode()
        found = {"data": self.data, "header": torch.tensor(list(header), dtype=torch.uint8)}
        return found if self.permutation is None else {**found, "permutation": self.permutation}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> QuantizedTensor:
        """The inverse of `state`.

        Raises:
            ValueError: the tensors are not those of a quantized weight.
        """
        format, *sizes = bytes(state["header"].tolist()).decode().split(",")
        if format not in formats() or len(sizes) != 2:
            raise ValueError(f"from_state: header names no quantized weight: {format!r} {sizes}")
        weight = cls(format, torch.Size(int(size) for size in sizes), state["data"], state.get("permutation"))
        torch.ops.pyllm.quantized_linear(
            torch.zeros(0, weight.shape[1]), weight.data, None, format, weight.shape[0]
        )
        return weight

    def __repr__(self) -> str:
        order = "" if self.permutation is None else ", columns permuted"
        bits = 8 * self.data.nbytes / max(1, self.shape.numel())
        return f"QuantizedTensor({self.format}, {tuple(self.shape)}, {bits:.2f} bits a value{order})"


@functools.cache
def formats() -> tuple[str, ...]:
    """Names of all formats that have kernels."""
    return tuple(torch.ops.pyllm.quantized_formats().split(",")) if _library.LOADED else ()


def _need_kernels() -> None:
    if not _library.LOADED:
        raise RuntimeError(f"quantized weights need the compiled operators: {_library.why_not_loaded()}")


def _sorting(group_index: Tensor, inputs: int, groups: int, group: int) -> Tensor | None:
    """The order of columns in which groups are neighbours; None if they are."""
    if group_index.shape != (inputs,) or (
        inputs and not 0 <= int(group_index.min()) <= int(group_index.max()) < groups
    ):
        raise ValueError(
            f"from_codes: group_index must hold the group, 0 to {groups - 1}, of each of {inputs} inputs, "
            f"got shape {tuple(group_index.shape)}"
        )
    order = torch.argsort(group_index.long(), stable=True)
    if group and not torch.equal(group_index.long()[order], torch.arange(inputs) // group):
        raise ValueError(f"from_codes: group_index must give every group {group} inputs")
    return None if torch.equal(order, torch.arange(inputs)) else order


def _group_of(inputs: int, groups: int, format: str) -> int:
    """Inputs of a group, as the format's name says or as the number of groups does; 0 for a single one."""
    named = re.search(r"_g(\d+)", format)
    sizes = (32, 64, 128) if named is None else (int(named[1]),)
    if format == "nf4":
        sizes = (64,)
    elif format == "fp8_e4m3":
        sizes = (128,)
    if groups == 1 and named is None and format != "nf4":
        return 0
    for size in sizes:
        if groups == -(-inputs // size):
            return size
    raise ValueError(
        f"from_codes: scales of {format!r} must have one group, or groups of {', '.join(str(s) for s in sizes)} "
        f"inputs of {inputs}; got {groups} groups"
    )


def _stored_format(format: str, group: int, has_zeros: bool, scales: Tensor) -> tuple[str, Tensor]:
    """The format's full name, and the scales in its type."""
    wide = scales.to(torch.float32)
    base = format.split("_g")[0]
    match = _INTEGERS.fullmatch(format)
    if match is None:
        if base not in ("nf4", "fp8_e4m3") or has_zeros:
            raise ValueError(
                f"from_codes: format must be int8, int4, nf4 or fp8_e4m3, and only integers have zeros; got {format!r}"
                f"{' with zeros' if has_zeros else ''}"
            )
        return f"{base}_g{group}" if base == "fp8_e4m3" and group else base, wide
    if match["zeros"] and not has_zeros:
        raise ValueError(f"from_codes: format {format!r} needs zeros")
    name = f"int{match['bits']}" + (f"_g{group}" if group else "") + ("_zp" if has_zeros else "")
    if not group:
        return name, wide
    half = wide.to(torch.float16)
    if match["wide"] is None and torch.equal(half.to(torch.float32), wide):
        return name, half
    return f"{name}_f32", wide


def _stored_codes(name: str, codes: Tensor, has_zeros: bool) -> Tensor:
    if codes.dtype == torch.float8_e4m3fn:
        return codes.view(torch.uint8)
    low, high = (0, 255) if has_zeros or not name.startswith("int") else (-128, 127)
    if name.startswith("int4"):
        low, high = (0, 15) if has_zeros else (-8, 7)
    if name == "nf4":
        high = 15
    if codes.is_floating_point() or (
        codes.numel() and not low <= int(codes.min()) <= int(codes.max()) <= high
    ):
        raise ValueError(
            f"from_codes: codes of {name} must be integers from {low} to {high}, got {codes.dtype}"
        )
    if name.startswith("int4"):
        return (codes - low).to(torch.uint8)
    if name.startswith("int8"):
        return (codes.to(torch.int16) - (128 if has_zeros else 0)).to(torch.int8).view(torch.uint8)
    return codes.to(torch.uint8)


def _stored_zeros(name: str, zeros: Tensor | None) -> Tensor | None:
    if zeros is None:
        return None
    most, shift = (16, 0) if name.startswith("int4") else (255, 128)
    if zeros.is_floating_point() or (zeros.numel() and not 0 <= int(zeros.min()) <= int(zeros.max()) <= most):
        raise ValueError(f"from_codes: zeros of {name} must be integers from 0 to {most}, got {zeros.dtype}")
    return (zeros.to(torch.int16) - shift).to(torch.int8)


@_library.register_fake("quantized_pack")
def _(codes: Tensor, scales: Tensor, zeros: Tensor | None, format: str) -> Any:
    return codes.new_empty((torch.library.get_ctx().new_dynamic_size(),))


@_library.register_fake("quantized_pack_rows")
def _(data: Tensor, blocks: Tensor, format: str, outputs: int, inputs: int, first: int) -> None:
    return None


@_library.register_fake("quantized_unpack")
def _(data: Tensor, format: str, outputs: int, inputs: int, dtype: torch.dtype) -> Tensor:
    return data.new_empty((outputs, inputs), dtype=dtype)
