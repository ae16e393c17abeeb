"""Our GGUF blocks, read by the gguf package: no more error than the quantizers of ggml and of that package."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from pyllm.quantization.gguf_blocks import BLOCKS, GGUF_FORMATS, quantize_gguf

SIMPLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")


def _weights(rows: int = 64, columns: int = 1024, seed: int = 0) -> torch.Tensor:
    """Normal, with rows of different size and a few large values, as weights of language models have."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(rows, columns, generator=generator) * 0.02
    weights *= torch.randn(rows, 1, generator=generator).exp()
    outliers = torch.rand(rows, columns, generator=generator) < 0.002
    return torch.where(outliers, 8 * weights, weights)


def _read(blocks: np.ndarray, name: str) -> np.ndarray:
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])


def _rmse(weights: torch.Tensor, blocks: np.ndarray, name: str) -> float:
    return float(np.sqrt(np.mean((weights.numpy() - _read(blocks, name).reshape(weights.shape)) ** 2)))


@pytest.mark.parametrize("name", SIMPLE)
def test_error_beside_the_gguf_package(name: str) -> None:
    weights = _weights()
    theirs = gguf.quants.quantize(weights.numpy(), gguf.GGMLQuantizationType[name])
    ours = _rmse(weights, quantize_gguf(weights, name).numpy(), name)
    assert ours <= 1.01 * _rmse(weights, theirs, name)


def _ggml() -> ctypes.CDLL:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    folder = Path(llama_cpp.__file__).parent / "lib"
    return ctypes.CDLL(str(next(folder.glob("libggml-base.so*"))))


@pytest.mark.parametrize("name", GGUF_FORMATS)
@pytest.mark.parametrize("seed", [0, 1])
def test_error_beside_ggml(name: str, seed: int) -> None:
    quantize = _ggml().ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    weights = _weights(seed=seed)
    blocks = np.zeros((64, 1024 // BLOCKS[name].elements * BLOCKS[name].bytes), np.uint8)
    kind = ctypes.c_int(gguf.GGMLQuantizationType[name].value)
    source, target = ctypes.c_void_p(weights.data_ptr()), ctypes.c_void_p(blocks.ctypes.data)
    first, rows, columns = ctypes.c_int64(0), ctypes.c_int64(64), ctypes.c_int64(1024)
    assert quantize(kind, source, target, first, rows, columns, None) == blocks.nbytes
    ours = _rmse(weights, quantize_gguf(weights, name).numpy(), name)
    assert ours <= 1.01 * _rmse(weights, blocks, name)


@pytest.mark.parametrize("name", GGUF_FORMATS)
@pytest.mark.parametrize("value", [0.0, 1.5, -3e-9, 6e4])
def test_constant_blocks(name: str, value: float) -> None:
    blocks = quantize_gguf(torch.full((2, 256), value), name).numpy()
    read = _read(blocks, name)
    assert np.isfinite(read).all()
    # MXFP4 has eight magnitudes to a power of two; 16-bit scales have nothing below 6e-8.
    tolerance = 0.17 if name == "MXFP4" else 0.02
    np.testing.assert_allclose(read, np.full_like(read, value), rtol=tolerance, atol=1e-7)


def test_rows_do_not_influence_one_another_nor_do_threads() -> None:
    weights = _weights(40, 2048)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = quantize_gguf(weights, "Q4_K")
        torch.set_num_threads(1)
        assert torch.equal(torch.cat([quantize_gguf(row[None], "Q4_K") for row in weights]), together)
    finally:
        torch.set_num_threads(threads)


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"format must be one of Q4_0, .* got 'Q9_K'"):
        quantize_gguf(torch.zeros(1, 256), "Q9_K")
    with pytest.raises(ValueError, match=r"multiple of Q4_K's 256, got \(1, 96\)"):
        quantize_gguf(torch.zeros(1, 96), "Q4_K")
    with pytest.raises(ValueError, match="not finite"):
        quantize_gguf(torch.full((1, 32), torch.nan), "Q4_0")


def test_operator() -> None:
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    values = torch.randn(512)
    torch.library.opcheck(torch.ops.pyllm.quantize_gguf.default, (values, "Q6_K"), test_utils=checks)
    for bad in (
        (values, "Q9_K"),
        (values[:100], "Q6_K"),
        (values.double(), "Q6_K"),
        (values.view(2, -1), "Q6_K"),
    ):
        with pytest.raises(RuntimeError, match="quantize_gguf"):
            torch.ops.pyllm.quantize_gguf(*bad)
