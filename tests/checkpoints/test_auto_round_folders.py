"""AWQ and GPTQ layers packed by auto-round, another writer of these files, read as the values it packed.

Skipped where auto-round is not installed: it brings most of a training stack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints.test_quantized_folders import AWQ, check, gptq_settings, write

GROUP = 32
Parts = tuple[dict[str, Tensor], Tensor]


def _theirs(module: str) -> Any:
    return pytest.importorskip(module, reason="auto-round is not installed", exc_type=ImportError)


def _grid(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scales and zeros (out, groups), and the values (out, in) that they can express."""
    x = weight.unflatten(1, (-1, GROUP))
    low, high = x.amin(-1), x.amax(-1)
    scales = ((high - low) / (2**bits - 1)).half().float()
    zeros = (-low / scales).round().clamp(0, 2**bits - 1)
    codes = (x / scales[..., None] + zeros[..., None]).round().clamp(0, 2**bits - 1)
    return scales, zeros, ((codes - zeros[..., None]) * scales[..., None]).flatten(1)


def _linear(weight: Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight
    return linear


def test_awq(tmp_path: Path) -> None:
    packing = _theirs("auto_round.export.export_to_awq.utils")

    def quantize(module: str, weight: Tensor) -> Parts:
        scales, zeros, values = _grid(weight, 4)
        layer = packing.WQLinear_GEMM.from_linear(
            _linear(values), 4, GROUP, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
        )
        unpacked = packing.dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, GROUP).T
        return {
            f"{module}.{name}": getattr(layer, name) for name in ("qweight", "qzeros", "scales")
        }, unpacked

    check(tmp_path, write(tmp_path, AWQ | {"group_size": GROUP}, quantize), torch.float16)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("form", "module"), [("gptq", "qlinear_torch_zp"), ("gptq_v2", "qlinear_torch")])
def test_gptq(bits: int, form: str, module: str, tmp_path: Path) -> None:
    _theirs("auto_round.export.export_to_awq.utils")
    packing = _theirs(f"auto_round_extension.torch.{module}")

    def quantize(name: str, weight: Tensor) -> Parts:
        scales, zeros, values = _grid(weight, bits)
        layer = packing.QuantLinear(bits, GROUP, weight.shape[1], weight.shape[0], False)
        layer.device = torch.device("cpu")
        layer.pack(_linear(values.clone()), scales.clone(), zeros.clone(), None, device="cpu")
        parts = {f"{name}.{part}": getattr(layer, part) for part in ("qweight", "qzeros", "scales")}
        groups = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
        return parts | {f"{name}.g_idx": groups}, values

    values = write(tmp_path, gptq_settings(bits, GROUP, form, False), quantize)
    check(tmp_path, values, torch.float16)
