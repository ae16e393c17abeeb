"""What nvcc makes of the kernels: no local memory, registers as recorded, wide accesses, tensor cores.

After a change that needs more registers for a reason, `python -m tests.cuda.compiler FOLDER` writes the table anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cuda import compiler

pytestmark = pytest.mark.skipif(compiler.nvcc() is None, reason="nvcc not installed")
TILED = ("attention_forward", "attention_grad_q", "attention_grad_kv")
RECORDED = json.loads(compiler.TABLE.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", compiler.ARCHITECTURES)
@pytest.mark.parametrize("source", compiler.SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_registers_and_instructions(source: Path, architecture: str, tmp_path: Path) -> None:
    cubin = tmp_path / "kernels.cubin"
    kernels = compiler.compile_kernels(source, architecture, cubin)
    assert kernels
    for kernel, facts in kernels.items():
        assert facts["stack"] == 0, f"{kernel} keeps {facts['stack']} bytes in local memory"
        assert facts["spills"] == 0, f"{kernel} spills {facts['spills']} bytes"
        most = RECORDED[kernel][architecture]
        assert facts["registers"] <= most, (
            f"{kernel} takes {facts['registers']} registers, {most} are recorded"
        )
    if compiler.cuobjdump() is None:
        pytest.skip(
            "registers are as recorded; instructions need nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm"
        )
    for kernel, counts in compiler.instructions(cubin).items():
        check_instructions(kernel, counts)


def check_instructions(kernel: str, counts: dict[str, int]) -> None:
    """The accesses and products a kernel is written around are there, and nothing in local memory."""
    assert not [op for op in counts if op.startswith(("LDL", "STL"))], kernel
    wide = {op for op in counts if op.startswith(("LDG", "STG")) and ".128" in op}
    if kernel.startswith(TILED):
        assert sum(n for op, n in counts.items() if op.startswith("HMMA.16816.F32")) >= 64, kernel
        assert sum(n for op, n in counts.items() if op.startswith("LDSM.16")) >= 32, kernel
        assert any(op.startswith("LDGSTS") and ".128" in op for op in counts), kernel
        assert any(op.startswith("STG") for op in wide), kernel
    elif kernel.startswith("attention_paged"):
        assert sum(n for op, n in counts.items() if op.startswith("HMMA.16816.F32")) >= 16, kernel
        assert sum(n for op, n in counts.items() if op.startswith("LDG") and ".64" in op) >= 16, kernel
    elif kernel.endswith((", 4>", ", 8>")):  # kernels of vectors; those of single elements end in 1
        narrow = {op for op in counts if op.startswith(("LDG", "STG")) and (".U8" in op or ".S8" in op)}
        assert any(op.startswith("LDG") for op in wide), kernel
        assert kernel.startswith("squares") or any(op.startswith("STG") for op in wide), kernel
        assert not narrow, kernel
