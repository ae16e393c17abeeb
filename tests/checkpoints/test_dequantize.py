"""Dequantized GGUF blocks against the gguf package's numpy definition, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.checkpoints.dequantize import BLOCK_FORMATS, DTYPES, dequantize
from pyllm.checkpoints.gguf import BLOCK_TYPES, GGUFError, TensorInfo, read_gguf
from tests.assets import asset
from tests.checkpoints.test_gguf import SMOLLM2

_BY_NAME = {block.name: block for block in BLOCK_TYPES.values()}


def _random(name: str, blocks: int, seed: int) -> tuple[np.ndarray, TensorInfo]:
    """Random bytes in every field but the 16-bit floats, which are drawn finite, subnormals and zeros among them."""
    block = _BY_NAME[name]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (blocks, block.bytes), dtype=np.uint8)
    floats = {
        "Q4_1": [0, 2],
        "Q5_1": [0, 2],
        "Q2_K": [80, 82],
        "Q3_K": [108],
        "Q4_K": [0, 2],
        "Q5_K": [0, 2],
        "Q6_K": [208],
        "MXFP4": [],
    }.get(name, [0])
    for start in floats:
        exponents = rng.integers(0, 31, blocks)
        bits = rng.integers(0, 2, blocks) << 15 | exponents << 10 | rng.integers(0, 1024, blocks)
        bits[rng.random(blocks) < 0.1] &= 0x8000
        data[:, start : start + 2] = bits.astype("<u2")[:, None].view(np.uint8)
    if name == "MXFP4":  # beyond 2^-126 to 2^125 values are subnormal, which ops flush, or infinite
        data[:, 0] = data[:, 0].clip(2, 252)
    info = TensorInfo("t", (blocks, block.elements), block, 0, data.size)
    return data.reshape(-1), info


def _expected(data: np.ndarray, info: TensorInfo) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[info.type.name]
    return gguf.quants.dequantize(data.reshape(info.shape[0], -1), kind).reshape(info.shape)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@given(blocks=st.integers(0, 70), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_bits_of_the_gguf_package(name: str, blocks: int, seed: int) -> None:
    data, info = _random(name, blocks, seed)
    values = dequantize(data, info, torch.float32)
    assert values.shape == info.shape
    if blocks:
        np.testing.assert_array_equal(values.numpy().view(np.int32), _expected(data, info).view(np.int32))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_rounded_once(name: str, dtype: torch.dtype) -> None:
    data, info = _random(name, 300, 7)
    expected = torch.from_numpy(_expected(data, info)).to(dtype)
    values = dequantize(data, info, dtype)
    assert values.dtype == dtype
    assert torch.equal(values, expected)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_types_without_blocks(name: str, dtype: torch.dtype) -> None:
    stored = torch.randn(5, 7, dtype=torch.float64).to(DTYPES[name])
    data = stored.view(torch.uint8).numpy().reshape(-1)
    info = TensorInfo("t", (5, 7), _BY_NAME[name], 0, data.size)
    assert torch.equal(dequantize(data, info, dtype), stored.to(dtype))
    shifted = np.concatenate([np.zeros(1, np.uint8), data])[1:]
    assert torch.equal(dequantize(shifted, info, dtype), stored.to(dtype))


def test_result_has_its_own_memory() -> None:
    data = np.zeros(8, np.uint8)
    values = dequantize(data, TensorInfo("t", (2,), _BY_NAME["F32"], 0, 8), torch.float32)
    values += 1
    assert not data.any()


def test_threads_do_not_matter() -> None:
    data, info = _random("Q4_K", 3000, 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = dequantize(data, info, torch.bfloat16)
        torch.set_num_threads(3)
        three = dequantize(data, info, torch.bfloat16)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)


def test_unsupported_type_is_named() -> None:
    info = TensorInfo("blk.0.x", (256,), _BY_NAME["IQ2_XS"], 0, 74)
    with pytest.raises(GGUFError, match=r"'blk\.0\.x' has type IQ2_XS, which is not supported"):
        dequantize(np.zeros(74, np.uint8), info, torch.float32)


def test_operator() -> None:
    data, _ = _random("Q5_K", 3, 1)
    raw = torch.from_numpy(data)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        torch.ops.pyllm.dequantize_gguf.default, (raw, "Q5_K", torch.bfloat16), test_utils=checks
    )
    for bad in ((raw[1:], "Q5_K"), (raw, "Q9_K"), (raw.view(torch.int16), "Q5_K"), (raw.view(3, -1), "Q5_K")):
        with pytest.raises(RuntimeError, match="dequantize_gguf"):
            torch.ops.pyllm.dequantize_gguf(*bad, torch.float32)


def test_tensors_of_a_real_file() -> None:
    file = read_gguf(asset(SMOLLM2))
    kinds = set()
    for info in list(file.tensors.values())[::11]:
        data = file.tensor_bytes(info.name)
        kinds.add(info.type.name)
        values = dequantize(data, info, torch.float32).numpy()
        np.testing.assert_array_equal(values, _expected(data, info), err_msg=info.name)
    assert kinds == {"F32", "Q4_1", "Q8_0"}
