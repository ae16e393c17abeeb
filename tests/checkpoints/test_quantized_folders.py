"""Quantized Hugging Face folders: written here from the formats' descriptions or by their own packages, read as the
values that those define.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from pyllm.checkpoints import load_checkpoint
from pyllm.checkpoints.bitsandbytes import NF4_VALUES
from pyllm.checkpoints.integer_weight import unpack_bits
from pyllm.models import ModelConfig, Transformer

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
Quantize = Callable[[str, Tensor], tuple[dict[str, Tensor], Tensor]]


def write(folder: Path, quantization: dict[str, Any], quantize: Quantize) -> dict[str, Tensor]:
    """A folder whose projections `quantize` made from random weights: (stored tensors, values) of each.

    Returns:
        The values of every quantized weight, by its name in the state dict.
    """
    torch.manual_seed(0)
    shapes = {key: CONFIG[key] for key in list(CONFIG)[1:]}
    network = Transformer(ModelConfig(**shapes))  # type: ignore[arg-type]
    tensors, values = {}, {}
    for name, weight in network.state_dict().items():
        if not name.endswith("proj.weight"):
            tensors[name] = weight
            continue
        module = name.removesuffix(".weight")
        parts, values[name] = quantize(module, weight)
        tensors |= parts
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = CONFIG | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return values


def check(folder: Path, values: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Every weight has the expected values, bit for bit."""
    state = load_checkpoint(folder, dtype=dtype).network.state_dict()
    assert len(values) == 7
    for name, expected in values.items():
        assert torch.equal(state[name], expected.to(dtype)), name


def _words(numbers: np.ndarray, bits: int) -> Tensor:
    """(rows, count) -> (rows, words) int32: one long stream of bits, low first, per row."""
    planes = numbers[..., None] >> np.arange(bits) & 1
    stream = planes.reshape(numbers.shape[0], -1).astype(np.uint8)
    return torch.from_numpy(np.packbits(stream, axis=1, bitorder="little").view(np.int32))


def _codes(weight: Tensor, bits: int, generator: np.random.Generator) -> np.ndarray:
    return generator.integers(0, 1 << bits, tuple(weight.shape))


def gptq(
    bits: int, group: int, *, version: int, symmetric: bool = False, act_order: bool = False
) -> Quantize:
    generator = np.random.default_rng(bits * group + version)

    def quantize(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        outputs, inputs = weight.shape
        count = inputs // group
        codes = _codes(weight, bits, generator)
        zeros = generator.integers(0, 1 << bits, (outputs, count))
        if symmetric:
            zeros[:] = 1 << bits - 1
        scales = (generator.random((outputs, count)) * 0.01).astype(np.float16)
        g_idx = np.arange(inputs) // group
        if act_order:
            generator.shuffle(g_idx)
        stored_zeros = zeros - 1 & (1 << bits) - 1 if version == 1 else zeros
        parts = {
            f"{module}.qweight": _words(codes, bits).t(),
            f"{module}.qzeros": _words(stored_zeros.T, bits),
            f"{module}.scales": torch.from_numpy(scales.T.copy()),
            f"{module}.g_idx": torch.from_numpy(g_idx.astype(np.int32)),
        }
        # GPTQModel multiplies in float16.
        steps = (codes - zeros[:, g_idx]).astype(np.float16)
        return parts, torch.from_numpy(scales[:, g_idx] * steps)

    return quantize


def gptq_settings(bits: int, group: int, form: str, symmetric: bool) -> dict[str, Any]:
    settings = {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": form}
    return settings | {"sym": symmetric}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq(bits: int, version: int, act_order: bool, tmp_path: Path) -> None:
    form = "gptq" if version == 1 else "gptq_v2"
    quantize = gptq(bits, 32, version=version, act_order=act_order)
    values = write(tmp_path, gptq_settings(bits, 32, form, False), quantize)
    check(tmp_path, values, torch.float16)


@pytest.mark.parametrize(("label", "version"), [("gptq", 2), ("gptq_v2", 1)])
def test_gptq_with_a_wrong_label(label: str, version: int, tmp_path: Path) -> None:
    quantize = gptq(4, 128, version=version, symmetric=True)
    values = write(tmp_path, gptq_settings(4, 128, label, True), quantize)
    with pytest.warns(UserWarning, match=f"its zeros are those of version {version}"):
        check(tmp_path, values, torch.float16)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}


def awq() -> Quantize:
    generator = np.random.default_rng(0)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds output order[i]

    def pack(numbers: np.ndarray) -> Tensor:  # (rows, out)
        words = numbers.reshape(numbers.shape[0], -1, 8)[..., order].astype(np.uint32)
        return torch.from_numpy(
            (words << 4 * np.arange(8, dtype=np.uint32)).sum(-1).astype(np.uint32).view(np.int32)
        )

    def quantize(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        outputs, inputs = weight.shape
        codes, zeros = _codes(weight, 4, generator), generator.integers(0, 16, (outputs, inputs // 64))
        scales = (generator.random(zeros.shape) * 0.01).astype(np.float16)
        names = {
            "qweight": pack(codes.T),
            "qzeros": pack(zeros.T),
            "scales": torch.from_numpy(scales.T.copy()),
        }
        steps = (codes - zeros.repeat(64, 1)).astype(np.float16)
        values = torch.from_numpy(steps * scales.repeat(64, 1))
        return {f"{module}.{part}": tensor for part, tensor in names.items()}, values

    return quantize


def test_awq(tmp_path: Path) -> None:
    check(tmp_path, write(tmp_path, AWQ, awq()), torch.float16)
    write(tmp_path, AWQ | {"version": "gemv_fast"}, awq())
    with pytest.raises(ValueError, match="AWQ version 'gemv_fast' is not supported"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_tensors_packed(bits: int, symmetric: bool, tmp_path: Path) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    generator = torch.Generator().manual_seed(bits)

    def quantize(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        outputs, inputs = weight.shape
        low, high, count = -(1 << bits - 1), 1 << bits - 1, inputs // 32
        codes = torch.randint(low, high, (outputs, inputs), generator=generator, dtype=torch.int8)
        zeros = torch.randint(low, high, (outputs, count), generator=generator, dtype=torch.int8)
        scales = (torch.rand(outputs, count, generator=generator) * 0.01).bfloat16()
        parts = {
            f"{module}.weight_packed": helpers.pack_to_int32(codes, bits),
            f"{module}.weight_scale": scales,
            f"{module}.weight_shape": torch.tensor([outputs, inputs]),
        }
        if not symmetric:
            parts[f"{module}.weight_zero_point"] = helpers.pack_to_int32(zeros, bits, packed_dim=0)
        steps = codes.float() - (0 if symmetric else zeros.float().repeat_interleave(32, 1))
        return parts, steps * scales.float().repeat_interleave(32, 1)

    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    check(tmp_path, write(tmp_path, settings, quantize))


def test_compressed_tensors_int8_and_float8(tmp_path: Path) -> None:
    def int8(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scales = weight.abs().amax(1, keepdim=True) / 127
        codes = (weight / scales).round().to(torch.int8)
        return {f"{module}.weight": codes, f"{module}.weight_scale": scales}, codes.float() * scales

    def float8(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale = weight.abs().max() / 448
        codes = (weight / scale).to(torch.float8_e4m3fn)
        return {f"{module}.weight": codes, f"{module}.weight_scale": scale.view(1)}, codes.float() * scale

    settings = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    check(tmp_path, write(tmp_path, settings, int8))
    check(tmp_path, write(tmp_path, settings | {"format": "float-quantized"}, float8))


def test_float8_in_blocks(tmp_path: Path) -> None:
    def quantize(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scales = torch.rand(-(-weight.shape[0] // 48), -(-weight.shape[1] // 128)) + 0.5
        codes = weight.to(torch.float8_e4m3fn)
        spread = scales.repeat_interleave(48, 0)[: weight.shape[0]].repeat_interleave(128, 1)
        return {f"{module}.weight": codes, f"{module}.weight_scale_inv": scales}, codes.float() * spread

    check(tmp_path, write(tmp_path, {"quant_method": "fp8", "weight_block_size": [48, 128]}, quantize))


NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def nf4(nested: bool) -> Quantize:
    functional = pytest.importorskip("bitsandbytes.functional")

    def quantize(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        codes, state = functional.quantize_4bit(
            weight, quant_type="nf4", blocksize=64, compress_statistics=nested
        )
        parts = {f"{module}.weight": codes}
        parts |= {f"{module}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
        return parts, functional.dequantize_4bit(codes, state)

    return quantize


@pytest.mark.parametrize("nested", [True, False])
def test_bitsandbytes_nf4(nested: bool, tmp_path: Path) -> None:
    check(tmp_path, write(tmp_path, NF4, nf4(nested)))


def test_table_of_nf4() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(functional.get_4bit_type("nf4", device="cpu"), torch.tensor(NF4_VALUES))


INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def int8_rows(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    largest = weight.abs().amax(1)
    codes = (weight * 127 / largest[:, None]).round().to(torch.int8)
    parts = {f"{module}.weight": codes, f"{module}.SCB": largest}
    return parts, codes.float() * (largest[:, None] / 127)


def test_llm_int8(tmp_path: Path) -> None:
    check(tmp_path, write(tmp_path, INT8, int8_rows))


@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    rows=st.integers(1, 5),
    count=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_bit_streams(bits: int, rows: int, count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 1 << bits, (rows, count))
    padded = np.pad(numbers, ((0, 0), (0, -count % 32)))
    words = _words(padded, bits)[:, : -(-count * bits // 32)].contiguous()
    assert torch.equal(unpack_bits(words, bits, count), torch.from_numpy(numbers).to(torch.uint8))


def _damaged(part: str, change: Callable[[Tensor], Tensor | None]) -> Quantize:
    intact = gptq(4, 32, version=1)

    def quantize(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        parts, values = intact(module, weight)
        changed = change(parts.pop(f"{module}.{part}"))
        return parts | ({} if changed is None else {f"{module}.{part}": changed}), values

    return quantize


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("scales", lambda t: None, r"scales' missing"),
        ("scales", lambda t: t[:, :-1], "columns, its scales"),
        ("scales", lambda t: t.to(torch.int32), "must be floating point"),
        ("qzeros", lambda t: t[:-1], "qzeros has shape"),
        ("qzeros", lambda t: None, "qzeros' missing"),
        ("qweight", lambda t: t.float(), "must be torch.int32"),
        ("qweight", lambda t: t[:-1], r"rows for \d+ inputs"),
        ("qweight", lambda t: t[0], "two dimensions"),
        ("g_idx", lambda t: t + 1, "group numbers below"),
        ("g_idx", lambda t: t - 1, "group numbers below"),
        ("g_idx", lambda t: t[:64], "has shape|bits"),
    ],
)
def test_parts_that_do_not_fit(
    part: str, change: Callable[[Tensor], Tensor | None], message: str, tmp_path: Path
) -> None:
    write(tmp_path, gptq_settings(4, 32, "gptq", False), _damaged(part, change))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "quip"}, "quantized with 'quip' are not supported"),
        ("gptq", "quantized with 'gptq' are not supported"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        (
            {"quant_method": "compressed-tensors", "format": "marlin-24"},
            "format 'marlin-24' is not supported",
        ),
        ({"quant_method": "fp8", "weight_block_size": [0, 1]}, "weight_block_size"),
    ],
)
def test_layouts_that_are_not_supported(quantization: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path, quantization, gptq(4, 32, version=1))
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)
