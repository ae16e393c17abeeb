"""The text of the inline assembly: what nvcc makes of every wrapper, run by an interpreter of PTX.

The simulator runs twins of the wrappers; here the assembly itself meets numpy's own products and conversions.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.assets import REPOSITORY
from tests.cuda import compiler
from tests.cuda.ptx.interpreter import Kernel, PtxError, Warp, parse

pytestmark = pytest.mark.skipif(compiler.nvcc() is None, reason="nvcc not installed")
WRAPPERS = Path(__file__).parent / "ptx" / "wrappers.cu"
Array = NDArray[Any]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    ptx = tmp_path_factory.mktemp("ptx") / "wrappers.ptx"
    command = [str(compiler.nvcc()), *compiler.FLAGS, "-arch=sm_80", "-ptx", "-o", str(ptx), str(WRAPPERS)]
    subprocess.run(command, check=True)
    return ptx.read_text()


@pytest.fixture(scope="module")
def kernels(text: str) -> dict[str, Kernel]:
    return parse(text)


def run(kernel: Kernel, *tensors: Array) -> Array:
    """The last of the tensors after a run of `kernel` on their addresses."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.nbytes // 16) * 16
    memory = np.zeros(end, np.uint8)
    for start, tensor in zip(starts, tensors, strict=True):
        memory[start : start + tensor.nbytes] = tensor.reshape(-1).view(np.uint8)
    Warp(kernel, memory, starts).run()
    last = tensors[-1]
    return memory[starts[-1] : starts[-1] + last.nbytes].view(last.dtype).reshape(last.shape)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bits(x: Array, dtype: torch.dtype) -> Array:
    """torch's rounding to a 16-bit float."""
    return torch.from_numpy(x).to(dtype).view(torch.int16).numpy().view(np.uint16)


def rounded(x: Array, dtype: torch.dtype) -> Array:
    return torch.from_numpy(x).to(dtype).float().numpy()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("multiply_bf16", torch.bfloat16),
        ("multiply_f16", torch.float16),
        ("multiply_bf16_transposed", torch.bfloat16),
    ],
)
def test_products_of_matrices(kernels: dict[str, Kernel], name: str, dtype: torch.dtype) -> None:
    a, b, c = (random(16, 16, seed=seed) for seed in range(3))
    found = run(kernels[name], bits(a, dtype), bits(b, dtype), c)
    right = rounded(b, dtype) if name.endswith("transposed") else rounded(b, dtype).T
    np.testing.assert_allclose(found, c + rounded(a, dtype) @ right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "dtype"), [("pack_bf16", torch.bfloat16), ("pack_f16", torch.float16)])
def test_packing_keeps_the_order_of_a_pair(kernels: dict[str, Kernel], name: str, dtype: torch.dtype) -> None:
    x = random(64)
    x[:4] = [0.0, -np.inf, 1e-7, 65519.0]
    found = run(kernels[name], x, np.zeros(32, np.uint32))
    assert np.array_equal(found.view(np.uint16), bits(x, dtype))


def test_widening_is_exact(kernels: dict[str, Kernel]) -> None:
    x = np.arange(32, dtype=np.uint16) * 2003
    expected = x.view(np.float16).astype(np.float32)
    assert np.array_equal(run(kernels["widen_f16"], x, np.zeros(32, np.float32)), expected, equal_nan=True)


def test_powers_of_two(kernels: dict[str, Kernel]) -> None:
    x = np.concatenate([np.linspace(-140, 127, 31), [-np.inf]]).astype(np.float32)
    found = run(kernels["power_of_two"], x, np.zeros(32, np.float32))
    exact = np.exp2(x.astype(np.float64))
    np.testing.assert_allclose(found, np.where(exact < 2.0**-126, 0, exact), rtol=3e-7)


@pytest.mark.parametrize(("name", "words"), [("copy_16", 4), ("copy_4", 1)])
def test_copies_and_their_zeros(kernels: dict[str, Kernel], name: str, words: int) -> None:
    x = np.arange(1, 1 + 16 * words, dtype=np.uint32)
    found = run(kernels[name], x, np.full(32 * words, 7, np.uint32))
    assert np.array_equal(found, np.concatenate([x, np.zeros_like(x)]))


def test_waiting_leaves_the_last_groups_in_flight(kernels: dict[str, Kernel]) -> None:
    x = np.arange(64, dtype=np.uint32)
    found = run(kernels["copy_groups"], x, np.zeros(64, np.uint32))
    assert np.array_equal(found[:32], x[:32])
    assert (found[32:] == 0xFFFFFFFF).all()


def test_every_wrapper_with_assembly_has_a_kernel_here(text: str) -> None:
    source = (REPOSITORY / "csrc" / "core" / "gpu_ptx.h").read_text()
    opcodes = {
        word.split(" ")[0].rstrip(";") for word in re.findall(r'asm(?: volatile)?\(\s*"([^"]+)', source)
    }
    assert len(opcodes) >= 11
    assert not [opcode for opcode in opcodes if opcode not in text]
    elsewhere = [p for p in (REPOSITORY / "csrc").rglob("*") if p.suffix in (".cu", ".cuh", ".h")]
    assert [p.name for p in elsewhere if re.search(r"\basm\b.*\(", p.read_text()) and "gpu" in p.name] == [
        "gpu_ptx.h"
    ]


EDITS = {
    "halves of a pair": ("pack_bf16", r"(cvt\.rn\.bf16x2\.f32 %\w+), (%\w+), (%\w+)", r"\1, \3, \2"),
    "registers of B": ("multiply_bf16", r"(mma\S+ .*?\}, \{.*?\}, \{)(%\w+),\s*(%\w+)", r"\1\3,\2"),
    "transposition": ("multiply_bf16_transposed", r"\.x4\.trans", ".x4"),
    "groups in flight": ("copy_groups", r"wait_group 1", "wait_group 0"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_wrong_assembly_gives_wrong_results(kernels: dict[str, Kernel], text: str, edit: str) -> None:
    """Edits of the text, none of which the simulator could see."""
    name, old, new = EDITS[edit]
    changed = re.sub(old, new, text)
    assert changed != text
    kernel = parse(changed)[name]
    if name.startswith("multiply"):
        a, b, c = (random(16, 16, seed=seed) for seed in range(3))
        arguments = [bits(a, torch.bfloat16), bits(b, torch.bfloat16), c]
    else:
        arguments = [random(64), np.zeros(64 if name == "copy_groups" else 32, np.uint32)]
    assert not np.array_equal(run(kernel, *arguments), run(kernels[name], *arguments))


def test_unknown_instructions_stop_the_run() -> None:
    kernel = parse(".visible .entry k(\n.param .u64 k_0\n)\n{\n\tsin.approx.f32 %f1, %f2;\n\tret;\n\n}\n")[
        "k"
    ]
    with pytest.raises(PtxError, match=r"unknown instruction: sin\.approx\.f32"):
        run(kernel, np.zeros(4, np.uint32))
