"""Packed weights hold what their formats define, bit for bit."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops.quantized_tensor import BLOCKS, QuantizedTensor, formats
from tests.ops.quantized_cases import FORMATS, block_values, code_values, random_codes, random_weight


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.int32)


@pytest.mark.parametrize("format", FORMATS)
@given(rows=st.integers(1, 40), units=st.integers(1, 3), seed=st.integers(0, 2**31))
@settings(max_examples=5, deadline=None)
def test_values_of_the_definition(format: str, rows: int, units: int, seed: int) -> None:
    weight, values = random_weight(format, rows, 256 * units, seed)
    assert weight.shape == values.shape
    assert torch.equal(bits(weight.dequantize()), bits(values))


@pytest.mark.parametrize("format", sorted(set(FORMATS) - set(BLOCKS)))
@pytest.mark.parametrize("inputs", [1, 31, 33, 100, 190])
def test_any_number_of_inputs(format: str, inputs: int) -> None:
    codes, scales, zeros = random_codes(format, 19, inputs)
    weight = QuantizedTensor.from_codes(format, codes, scales, zeros)
    assert torch.equal(weight.dequantize(), code_values(format, codes, scales, zeros))


@pytest.mark.parametrize("format", ["q2_k", "q3_k", "q4_k", "q6_k", "iq4_xs", "q5_1"])
def test_scales_of_any_bits(format: str) -> None:
    """Every finite 16-bit float, subnormals and zeros among them."""
    elements, size = BLOCKS[format]
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (16 * 8, size), dtype=np.uint8)
    for start in {"q5_1": [0, 2], "q2_k": [80, 82], "q3_k": [108], "q4_k": [0, 2], "q6_k": [208]}.get(
        format, [0]
    ):
        finite = rng.integers(0, 31, len(blocks)) << 10 | rng.integers(0, 1024, len(blocks))
        pattern = (finite | rng.integers(0, 2, len(blocks)) << 15).astype("<u2")
        blocks[:, start : start + 2] = pattern[:, None].view(np.uint8)
    weight = QuantizedTensor.from_blocks(format.upper(), torch.from_numpy(blocks), (16, 8 * elements))
    expected = block_values(format, blocks).reshape(16, -1)
    assert torch.equal(bits(weight.dequantize()), bits(expected))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert torch.equal(weight.dequantize(dtype), expected.to(dtype))


def test_every_float8() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)[None]
    weight = QuantizedTensor.from_codes("fp8_e4m3", codes, torch.full((1, 1), 0.5))
    torch.testing.assert_close(weight.dequantize(), codes.float() / 2, rtol=0, atol=0, equal_nan=True)


def test_groups_of_scattered_columns() -> None:
    codes, scales, zeros = random_codes("int4_g32_zp", 20, 128)
    assert zeros is not None
    index = torch.randperm(128, generator=torch.Generator().manual_seed(3)) // 32
    weight = QuantizedTensor.from_codes("int4", codes, scales, zeros, group_index=index)
    expected = (codes - zeros[:, index]) * scales[:, index]
    assert torch.equal(weight.dequantize(), expected)
    in_order = QuantizedTensor.from_codes("int4", codes, scales, zeros, group_index=torch.arange(128) // 32)
    assert in_order.permutation is None
    assert weight.permutation is not None


def test_copies_and_files() -> None:
    weight, values = random_weight("q4_k", 5, 512)
    restored = QuantizedTensor.from_state(weight.state())
    for other in (
        copy.deepcopy(weight),
        pickle.loads(pickle.dumps(weight)),
        weight.to("cpu"),
        weight.detach(),
        restored,
    ):
        assert (other.format, other.shape) == ("q4_k", (5, 512))
        assert torch.equal(other.dequantize(), values)
    stream = io.BytesIO()
    torch.save(weight.state(), stream)
    stream.seek(0)
    assert torch.equal(QuantizedTensor.from_state(torch.load(stream)).dequantize(), values)


def test_what_it_says() -> None:
    weight, _ = random_weight("q4_k", 32, 512)
    assert repr(weight) == "QuantizedTensor(q4_k, (32, 512), 4.62 bits a value)"
    assert weight.nbytes == 32 * 512 * 37 // 64
    assert set(FORMATS) <= set(formats())


def test_bad_input_is_named() -> None:
    codes, scales, zeros = random_codes("int4_g32_zp", 4, 64)
    with pytest.raises(ValueError, match="format must be one of"):
        QuantizedTensor.from_blocks("q4_2", torch.zeros(18, dtype=torch.uint8), (1, 32))
    with pytest.raises(ValueError, match="blocks must be 18 uint8 bytes"):
        QuantizedTensor.from_blocks("q4_0", torch.zeros(17, dtype=torch.uint8), (1, 32))
    with pytest.raises(ValueError, match="format must be"):
        QuantizedTensor.from_codes("int5", codes, scales, zeros)
    with pytest.raises(ValueError, match="needs zeros"):
        QuantizedTensor.from_codes("int4_zp", codes, scales)
    with pytest.raises(ValueError, match="codes of int4_g32"):
        QuantizedTensor.from_codes("int4", codes + 8, scales)
    with pytest.raises(ValueError, match="zeros of int4_g32_zp"):
        QuantizedTensor.from_codes("int4", codes, scales, -1 - torch.zeros_like(codes[:, :2]))
    with pytest.raises(ValueError, match="zeros must have the shape"):
        QuantizedTensor.from_codes("int4", codes, scales, codes)
    with pytest.raises(ValueError, match="must have one group"):
        QuantizedTensor.from_codes("int4", codes, torch.ones(4, 5))
    with pytest.raises(ValueError, match="scales of 'int4_g128'"):
        QuantizedTensor.from_codes("int4_g128", codes, scales, zeros)
    with pytest.raises(ValueError, match="group_index"):
        QuantizedTensor.from_codes("int4", codes, scales, zeros, group_index=torch.full((64,), 2))
    with pytest.raises(ValueError, match="every group 32 inputs"):
        QuantizedTensor.from_codes("int4", codes, scales, zeros, group_index=torch.arange(64) // 40)
    with pytest.raises(ValueError, match="header"):
        QuantizedTensor.from_state({"header": torch.tensor([65], dtype=torch.uint8), "data": torch.zeros(1)})
    weight, _ = random_weight("q8_0", 3, 32)
    with pytest.raises(RuntimeError, match="data must be"):
        QuantizedTensor.from_state({**weight.state(), "data": weight.data[:-1]})
    ops = torch.ops.pyllm
    for call in (
        lambda: ops.quantized_unpack(weight.data, "q8_0", 3, 1 << 62, torch.float32),
        lambda: ops.quantized_unpack(weight.data, "q8_0", -3, 32, torch.float32),
        lambda: ops.quantized_unpack(weight.data, "no", 3, 32, torch.float32),
        lambda: ops.quantized_packed_bytes("q8_0", 3, 1 << 62),
        lambda: ops.quantized_pack_rows(weight.data, weight.data[:34], "q8_0", 3, 31, 0),
        lambda: ops.quantized_pack_rows(weight.data, weight.data[:33], "q8_0", 3, 32, 0),
        lambda: ops.quantized_pack_rows(weight.data, weight.data[:68], "q8_0", 3, 32, 2),
        lambda: ops.quantized_pack_rows(weight.data, weight.data[:34], "q8_0", 3, 32, -1),
        lambda: ops.quantized_pack_rows(weight.data[1:], weight.data[:34], "q8_0", 3, 32, 0),
        lambda: ops.quantized_pack_rows(weight.data, weight.data[:34], "int8", 3, 32, 0),
        lambda: ops.quantized_pack(torch.zeros(2, 32, dtype=torch.uint8), torch.ones(2, 1), None, "q4_k"),
        lambda: ops.quantized_pack(torch.zeros(2, 32, dtype=torch.uint8), torch.ones(2, 2), None, "int8"),
        lambda: ops.quantized_pack(torch.zeros(2, 32, dtype=torch.uint8), torch.ones(2, 1), None, "int8_zp"),
    ):
        with pytest.raises(RuntimeError, match="pyllm::quantized"):
            call()
