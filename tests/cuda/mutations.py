"""Faults to plant in the CUDA kernels, each with what must notice it."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One edit of a file under csrc/, whose kernels csrc/ops/<source>.cu compiles.

    `catcher`: "result" (wrong numbers), "simulator" (an error it reports), "address" or "thread" (a sanitizer).
    """

    op: str  # whose random cases run
    source: str
    file: str
    old: str
    new: str
    catcher: str


def _faults(op: str, source: str, file: str, *edits: tuple[str, ...]) -> list[Fault]:
    return [Fault(op, source, file, *edit) for edit in edits]


FAULTS = [
    *_faults(
        "rms_norm",
        "rms_norm/cuda",
        "core/gpu_reduce.h",
        ("  __syncthreads();\n", "", "thread"),
        ("distance > 0;", "distance > 1;", "result"),
        ("if (threadIdx.x % kWarp == 0) row[", "if (threadIdx.x == 0) row[", "result"),
        ("shared + threadIdx.y * warps", "shared", "result"),
    ),
    *_faults(
        "rms_norm",
        "rms_norm/cuda",
        "core/gpu_sum_parts.h",
        ("if (i >= columns) return;", "", "address"),
    ),
    *_faults(
        "layer_norm",
        "layer_norm/cuda",
        "ops/layer_norm/cuda.cuh",
        ("row_sum(squares, sums + kMostWarps)", "row_sum(squares, sums)", "thread"),
    ),
    *_faults(
        "swiglu",
        "swiglu/cuda",
        "ops/swiglu/cuda.cuh",
        ("if (column < columns) f(", "f(", "address"),
        ("blockIdx.x % stretches", "blockIdx.x", "address"),
        ("row * input.row_stride + column", "row * input.row_stride", "result"),
        ("const float square = g * g;", "const float square = g;", "result"),
        ("grad[n] = b.up.data ? grad[n] * f.value : f.value;", "grad[n] *= f.value;", "result"),
        ("b.grad_up, row * b.columns", "b.grad_gate, row * b.columns", "result"),
    ),
    *_faults(
        "rope",
        "rope/cuda",
        "ops/rope/cuda.cuh",
        ("position < r.table_rows", "true", "address"),
        ("+ a[n] * (sign * s[n])", "- a[n] * (sign * s[n])", "result"),
        ("load<T, kWidth>(x + pairs)", "load<T, kWidth>(x + kWidth)", "result"),
        ("store(out + kWidth, from_floats", "store(out, from_floats", "result"),
        ("2 * r.pairs + item % tail", "r.pairs + item % tail", "result"),
        ("item < heads * vectors", "item <= heads * vectors", "address"),
    ),
    *_faults(
        "adamw",
        "adamw/cuda",
        "ops/adamw/cuda.cuh",
        ("if (first + kWidth <= t.count)", "if (first < t.count)", "address"),
        ("i < t.count; ++i)", "i < t.count - 1; ++i)", "result"),
        ("if (t.master) store_floats", "if (!t.master) store_floats", "simulator"),
    ),
    *_faults(
        "adamw",
        "adamw/cuda",
        "core/gpu_tensor_list.h",
        ("list.blocks_before[middle] <= block", "list.blocks_before[middle] < block", "result"),
        ("if (list.count == list.kMost || ", "if (", "address"),
    ),
]
