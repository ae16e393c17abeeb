"""Runs PTX, the text that nvcc makes of a kernel, for one warp: a register is an array of 32 lanes.

Only straight code, and only the instructions below, written from NVIDIA's PTX manual ("PTX ISA"): anything else stops
with a PtxError. Asynchronous copies land when they are waited for, no earlier; shared memory begins as 0xFF bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES = 32
_LANE = np.arange(LANES)
_G, _T = _LANE // 4, _LANE % 4  # of the manual's figures of fragments
_DTYPES = {
    **{f"u{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)},
    **{f"b{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)},
    **{f"s{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)},
    "f32": "<f4",
    "pred": "?",
}
Array = NDArray[Any]


class PtxError(Exception):
    """An instruction that is not known here, or one that may not do what it does."""


@dataclass
class Kernel:
    parameters: list[str]
    shared: dict[str, int]  # offset of each array
    shared_bytes: int
    code: list[tuple[str, list[str]]]  # opcode, operands


def parse(text: str) -> dict[str, Kernel]:
    """The kernels of a PTX module by name."""
    text = re.sub(r"//[^\n]*", "", text)
    kernels = {}
    for name, header, body in re.findall(r"\.entry\s+(\w+)\((.*?)\)\s*\{\n(.*?)\n\}", text, re.S):
        shared: dict[str, int] = {}
        size = 0
        for align, array, count in re.findall(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\]", body):
            shared[array] = -(-size // int(align)) * int(align)
            size = shared[array] + int(count)
        lines = (line.strip() for line in body.replace("\n", " ").split(";"))
        code = [_split(line) for line in lines if line and not line.startswith(".")]
        kernels[name] = Kernel(re.findall(r"\.param\s+\S+\s+(\w+)", header), shared, size, code)
    return kernels


def _split(line: str) -> tuple[str, list[str]]:
    opcode, _, rest = line.partition(" ")
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest)
    return opcode, operands


@dataclass
class Warp:
    """One run of a kernel: `memory` is global memory, addressed from 0; parameters are addresses in it."""

    kernel: Kernel
    memory: Array
    arguments: list[int]
    registers: dict[str, Array] = field(default_factory=dict)
    copies: list[list[tuple[Array, Array]]] = field(default_factory=lambda: [[]])

    def run(self) -> None:
        self.shared = np.full(self.kernel.shared_bytes, 0xFF, np.uint8)
        for opcode, operands in self.kernel.code:
            if opcode == "ret":
                break
            instruction = next((f for name, f in _INSTRUCTIONS if re.fullmatch(name, opcode)), None)
            if instruction is None:
                raise PtxError(f"unknown instruction: {opcode} {', '.join(operands)}")
            with np.errstate(all="ignore"):
                instruction(self, opcode.split("."), operands)
        if any(self.copies):
            raise PtxError("ended with copies that were never waited for")

    def read(self, operand: str, kind: str) -> Array:
        """An operand's 32 values, its bits taken as `kind`."""
        dtype = np.dtype(_DTYPES[kind])
        if operand == "%tid.x":
            return _LANE.astype(dtype)
        if operand.startswith("%"):
            value = self.registers[operand]
            return value if kind == "pred" else value.view(dtype)
        if operand in self.kernel.shared:
            return np.full(LANES, self.kernel.shared[operand], dtype)
        if operand.startswith("0f"):
            return np.full(LANES, int(operand[2:], 16), np.uint32).view(dtype)
        unsigned = np.dtype(f"<u{dtype.itemsize}")
        return np.full(LANES, int(operand) % (1 << 8 * dtype.itemsize), unsigned).view(dtype)

    def write(self, operand: str, value: Array) -> None:
        self.registers[operand] = np.ascontiguousarray(value)

    def address(self, operand: str, space: str, size: int) -> tuple[Array, Array]:
        """The memory of `space`, and of each lane the indices of the `size` bytes that [register+offset] names."""
        base, _, offset = operand.strip("[]").partition("+")
        memory = self.shared if space == "shared" else self.memory
        start = self.read(base, "u32" if space == "shared" else "u64").astype(np.int64) + int(offset or 0)
        if (start % size).any() or (start < 0).any() or (start + size > len(memory)).any():
            raise PtxError(f"{space} address out of range or not a multiple of {size}: {operand}")
        return memory, start[:, None] + np.arange(size)


def _names(operand: str) -> list[str]:
    return re.findall(r"[^\s,{}]+", operand)


def _bytes_of(values: list[Array]) -> Array:
    return np.stack(values, 1).view(np.uint8).reshape(LANES, -1)


def _load(warp: Warp, op: list[str], operands: list[str]) -> None:
    if op[1] == "param":
        place = warp.kernel.parameters.index(operands[1].strip("[]"))
        warp.write(operands[0], np.full(LANES, warp.arguments[place], np.uint64))
        return
    targets, dtype = _names(operands[0]), np.dtype(_DTYPES[op[-1]])
    memory, place = warp.address(operands[1], op[1], dtype.itemsize * len(targets))
    values = memory[place].view(dtype)
    for i, target in enumerate(targets):
        warp.write(target, values[:, i])


def _store(warp: Warp, op: list[str], operands: list[str]) -> None:
    values = [warp.read(name, op[-1]) for name in _names(operands[1])]
    memory, place = warp.address(operands[0], op[1], values[0].itemsize * len(values))
    memory[place] = _bytes_of(values)


def _convert_integer(warp: Warp, op: list[str], operands: list[str]) -> None:
    warp.write(operands[0], warp.read(operands[1], op[2]).astype(_DTYPES[op[1]]))


def _arithmetic(function: Callable[..., Array]) -> Callable[[Warp, list[str], list[str]], None]:
    def run(warp: Warp, op: list[str], operands: list[str]) -> None:
        warp.write(operands[0], function(*(warp.read(o, op[-1]) for o in operands[1:])))

    return run


def _multiply_wide(warp: Warp, op: list[str], operands: list[str]) -> None:
    wide = "<i8" if op[-1] == "s32" else "<u8"
    a, b = (warp.read(o, op[-1]).astype(wide) for o in operands[1:])
    warp.write(operands[0], a * b)


def _shift(warp: Warp, op: list[str], operands: list[str]) -> None:
    a, b = warp.read(operands[1], op[-1]), warp.read(operands[2], "u32").astype(_DTYPES[op[-1]])
    warp.write(operands[0], a << b if op[0] == "shl" else a >> b)


def _select(warp: Warp, op: list[str], operands: list[str]) -> None:
    a, b = (warp.read(o, op[-1]) for o in operands[1:3])
    warp.write(operands[0], np.where(warp.read(operands[3], "pred"), a, b))


def _compare(warp: Warp, op: list[str], operands: list[str]) -> None:
    a, b = (warp.read(o, op[-1]) for o in operands[1:])
    names = {"lt": np.less, "gt": np.greater, "eq": np.equal, "ne": np.not_equal}
    warp.write(operands[0], names[op[1]](a, b))


def bfloat16_bits(x: Array) -> Array:
    """float32 rounded to nearest, ties to even; NaN becomes 0x7FFF, as the manual says."""
    bits = x.view(np.uint32).astype(np.uint64)
    return np.where(np.isnan(x), 0x7FFF, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint32)


def float16_bits(x: Array) -> Array:
    return np.where(np.isnan(x), 0x7FFF, x.astype(np.float16).view(np.uint16)).astype(np.uint32)


def _pack(warp: Warp, op: list[str], operands: list[str]) -> None:
    """cvt.rn.*x2.f32 d, a, b: a in the upper half."""
    bits = bfloat16_bits if op[2] == "bf16x2" else float16_bits
    high, low = (bits(warp.read(o, "f32")) for o in operands[1:])
    warp.write(operands[0], high << 16 | low)


def _widen(warp: Warp, op: list[str], operands: list[str]) -> None:
    warp.write(operands[0], warp.read(operands[1], "u16").view(np.float16).astype(np.float32))


def _exp2(warp: Warp, op: list[str], operands: list[str]) -> None:
    y = np.exp2(warp.read(operands[1], "f32"))
    warp.write(operands[0], np.where(y < np.float32(2.0**-126), np.float32(0), y))


def _ldmatrix(warp: Warp, op: list[str], operands: list[str]) -> None:
    """Lanes 8 i to 8 i + 7 name the rows of matrix i; lane 4 g + t gets elements 2 t, 2 t + 1 of row g."""
    memory, rows = warp.address(operands[1], "shared", 16)
    matrices = memory[rows].view(np.uint16).reshape(4, 8, 8).astype(np.uint32)
    if "trans" in op:
        matrices = matrices.transpose(0, 2, 1)
    for matrix, target in zip(matrices, _names(operands[0]), strict=True):
        warp.write(target, matrix[_G, 2 * _T] | matrix[_G, 2 * _T + 1] << 16)


def _mma(warp: Warp, op: list[str], operands: list[str]) -> None:
    """mma.m16n8k16, by the manual's figures "MMA .m16n8k16 fragment layout" for matrices A, B and C."""

    def halves(operand: str) -> Array:
        """(registers, halves, lanes) as floats."""
        words = np.stack([warp.read(name, "u32") for name in _names(operand)])
        bits = np.stack([words & 0xFFFF, words >> 16], 1)
        if op[7] == "bf16":
            return (bits << 16).astype(np.uint32).view(np.float32)
        return bits.astype(np.uint16).view(np.float16).astype(np.float32)

    a, b = np.zeros((16, 16), np.float32), np.zeros((16, 8), np.float32)
    for register, pair in enumerate(halves(operands[1])):
        for half, values in enumerate(pair):
            a[_G + register % 2 * 8, 2 * _T + register // 2 * 8 + half] = values
    for register, pair in enumerate(halves(operands[2])):
        for half, values in enumerate(pair):
            b[2 * _T + register * 8 + half, _G] = values
    product = a @ b
    for i, (target, source) in enumerate(zip(_names(operands[0]), _names(operands[3]), strict=True)):
        warp.write(target, warp.read(source, "f32") + product[_G + i // 2 * 8, 2 * _T + i % 2])


def _copy(warp: Warp, op: list[str], operands: list[str]) -> None:
    """cp.async [to], [from], size, valid bytes: the rest is zeros."""
    size, valid = int(operands[2]), warp.read(operands[3], "u32")
    if size == 4 and op[2] == "cg":
        raise PtxError("cp.async.cg copies 16 bytes")
    _, to = warp.address(operands[0], "shared", size)
    memory, source = warp.address(operands[1], "global", size)
    data = np.where(np.arange(size) < valid[:, None], memory[source], 0)
    warp.copies[-1].append((to, data))


def _commit(warp: Warp, op: list[str], operands: list[str]) -> None:
    warp.copies.append([])


def _wait(warp: Warp, op: list[str], operands: list[str]) -> None:
    while len(warp.copies) - 1 > int(operands[0]):
        for to, data in warp.copies.pop(0):
            warp.shared[to] = data


def _nothing(warp: Warp, op: list[str], operands: list[str]) -> None:
    """A barrier of a warp whose lanes run in step."""


_INSTRUCTIONS: list[tuple[str, Callable[[Warp, list[str], list[str]], None]]] = [
    (r"ld\.(param|global|shared)\.(v4\.)?[usf]\d+", _load),
    (r"st\.(global|shared)\.(v4\.)?[usf]\d+", _store),
    (r"(mov\.[ub](32|64)|cvta\.to\.global\.u64)", _arithmetic(lambda a: a)),
    (r"cvt\.[us]\d+\.[us]\d+", _convert_integer),
    (r"add\.(s32|s64)", _arithmetic(np.add)),
    (r"sub\.s32", _arithmetic(np.subtract)),
    (r"and\.b32", _arithmetic(np.bitwise_and)),
    (r"or\.b32", _arithmetic(np.bitwise_or)),
    (r"mul\.wide\.[us]32", _multiply_wide),
    (r"(shl\.b32|shr\.[us]32)", _shift),
    (r"selp\.b\d+", _select),
    (r"setp\.(lt|gt|eq|ne)\.[us]32", _compare),
    (r"cvt\.rn\.(b?f16x2)\.f32", _pack),
    (r"cvt\.f32\.f16", _widen),
    (r"ex2\.approx\.ftz\.f32", _exp2),
    (r"ldmatrix\.sync\.aligned\.m8n8\.x4\.(trans\.)?shared\.b16", _ldmatrix),
    (r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.(bf16\.bf16|f16\.f16)\.f32", _mma),
    (r"cp\.async\.(cg|ca)\.shared\.global", _copy),
    (r"cp\.async\.commit_group", _commit),
    (r"cp\.async\.wait_group", _wait),
    (r"bar\.warp\.sync", _nothing),
]
