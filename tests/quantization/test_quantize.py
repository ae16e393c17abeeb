"""Formats by name: error bounds, and what we write read by the packages whose layouts those are."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import pyllm
from pyllm.checkpoints import load_checkpoint, read_gguf
from pyllm.checkpoints.gguf_write import write_gguf as write_file
from pyllm.checkpoints.quantized_parts import dynamic_map, int8_parts, nf4_parts, pack_bits, packed_parts
from pyllm.cli import main
from pyllm.quantization import quantize, quantize_gguf_file, save_quantized
from pyllm.quantization.quantize import quantize_nf4, quantize_to_integers
from tests.checkpoints.test_gguf_model import _wide_llama, write_gguf
from tests.models.hf import ids
from tests.quantization.test_gguf_blocks import _weights

# Relative root mean squared error on normal weights, with room of a tenth.
ERRORS = {
    "q4_0": 0.095,
    "q8_0": 0.006,
    "q2_k": 0.3,
    "q3_k": 0.16,
    "q4_k": 0.08,
    "q6_k": 0.019,
    "iq4_nl": 0.085,
    "int8": 0.012,
    "int8_g32": 0.006,
    "int4_g32": 0.1,
    "int4_g128": 0.13,
    "int4_g32_zp": 0.09,
    "nf4": 0.11,
    "int8_zp": 0.012,
    "fp8_e4m3": 0.03,
    "mxfp4": 0.13,
}


@pytest.mark.parametrize("format", ERRORS)
def test_error(format: str) -> None:
    weights = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0)) * 0.02
    quantized = quantize(weights, format)
    assert quantized.shape == weights.shape
    error = (quantized.dequantize() - weights).norm() / weights.norm()
    assert error < ERRORS[format]


@pytest.mark.parametrize(
    "format", ["int4_g32", "int4_g128_zp", "int8", "int8_g64_zp", "nf4", "fp8_e4m3", "q5_k"]
)
@pytest.mark.parametrize("value", [0.0, 0.75, -3.0])
def test_constant_rows(format: str, value: float) -> None:
    values = quantize(torch.full((16, 256), value), format).dequantize()
    torch.testing.assert_close(values, torch.full((16, 256), value), rtol=0.02, atol=1e-7)


def test_wrong_input() -> None:
    weights = torch.ones(4, 96)
    for format, message in {
        "q4": "format must be one of q4_0",
        "int4_g64": "96 inputs, no multiple of the group",
        "nf4": "no multiple of nf4's 64",
        "q4_k": "multiple of Q4_K's 256",
    }.items():
        with pytest.raises(ValueError, match=message):
            quantize(weights, format)
    with pytest.raises(ValueError, match=r"shape \(out, in\), got \(96,\)"):
        quantize(weights[0], "int8")
    with pytest.raises(ValueError, match="not finite"):
        quantize(weights / 0, "nf4")


@pytest.mark.parametrize("format", ["int4_g32", "int4_g32_zp", "int8_g128_zp", "int4", "int8", "int8_zp"])
def test_parts_read_by_compressed_tensors(format: str) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    quantized = quantize_to_integers(_weights(), format)
    symmetric, middle, shape = not format.endswith("_zp"), 1 << quantized.bits - 1, quantized.codes.shape
    if format in ("int8", "int8_zp"):
        parts = int8_parts(quantized, "m", symmetric=symmetric)
        codes, zeros = parts["m.weight"], parts.get("m.weight_zero_point")
    else:
        parts = packed_parts(quantized, "m", symmetric=symmetric)
        codes = helpers.unpack_from_int32(parts["m.weight_packed"], quantized.bits, shape)
        zeros = parts.get("m.weight_zero_point")
        if zeros is not None:
            zeros = helpers.unpack_from_int32(zeros, quantized.bits, quantized.scales.shape, packed_dim=0)
    assert (zeros is None) == symmetric
    size = shape[1] // quantized.scales.shape[1]
    shift = 0 if zeros is None else zeros.float().repeat_interleave(size, 1)
    values = (codes.float() - shift) * parts["m.weight_scale"].float().repeat_interleave(size, 1)
    assert torch.equal(values, quantized.dequantized(torch.float32))
    assert int(codes.min()) >= -middle
    assert int(codes.max()) < middle


def test_parts_read_by_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(functional.create_dynamic_map(), dynamic_map())
    weights = _weights()
    quantized = quantize_nf4(weights)
    parts = nf4_parts(quantized, "m", "float32")
    state = {name.removeprefix("m.weight."): part for name, part in parts.items() if name != "m.weight"}
    state = functional.QuantState.from_dict(state, device=torch.device("cpu"))
    values = functional.dequantize_4bit(parts["m.weight"], state)
    assert torch.equal(values, quantized.dequantized(torch.float32))
    theirs = functional.dequantize_4bit(
        *functional.quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    )
    assert (values - weights).norm() <= 1.01 * (theirs - weights).norm()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_streams(bits: int) -> None:
    numbers = torch.randint(0, 1 << bits, (3, 45), generator=torch.Generator().manual_seed(bits))
    planes = numbers.numpy()[..., None] >> np.arange(bits) & 1
    stream = np.packbits(planes.reshape(3, -1).astype(np.uint8), axis=1, bitorder="little")
    padded = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 4)))
    assert torch.equal(pack_bits(numbers, bits), torch.from_numpy(padded.view(np.int32)))


@pytest.mark.parametrize("format", ["int4_g32", "int8", "int4_g128_zp", "nf4"])
def test_folders(format: str, tmp_path: Path) -> None:
    _wide_llama().save_pretrained(tmp_path / "plain")
    network = load_checkpoint(tmp_path / "plain").network
    save_quantized(network, tmp_path / "quantized", format)
    loaded, dense = (load_checkpoint(tmp_path / "quantized", dtype=d).network for d in ("auto", "float32"))
    weight = network.model.layers[0].mlp.up_proj.weight
    expected = quantize(weight, format).dequantize()
    assert torch.equal(loaded.model.layers[0].mlp.up_proj.weight.dequantize(), expected)
    assert torch.equal(dense.model.layers[0].mlp.up_proj.weight, expected)
    x = ids(1, 20)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), dense(x), atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="quantized already"):
        save_quantized(loaded, tmp_path / "again", format)


def test_quantize_at_load(tmp_path: Path) -> None:
    _wide_llama().save_pretrained(tmp_path)
    model = pyllm.load(tmp_path, quantize="q5_k")
    weight = pyllm.load(tmp_path).network.model.layers[0].mlp.up_proj.weight
    layer = model.network.model.layers[0].mlp.up_proj
    assert torch.equal(layer.weight.dequantize(), quantize(weight, "q5_k").dequantize())


def test_gguf_file(tmp_path: Path) -> None:
    model = _wide_llama()
    write_gguf(tmp_path / "plain.gguf", model, edit=lambda w: w.add_chat_template("{{ messages }}"))
    arguments = ["--model", str(tmp_path / "plain.gguf"), "--bits", "4", "--out", str(tmp_path / "q.gguf")]
    assert main(["quantize", *arguments]) == 0
    reader = gguf.GGUFReader(tmp_path / "q.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_up.weight"] == "Q4_K"
    assert (kinds["token_embd.weight"], kinds["output.weight"]) == ("Q8_0", "Q8_0")
    assert kinds["output_norm.weight"] == "F32"
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert reader.fields["tokenizer.chat_template"].contents() == "{{ messages }}"
    ours, theirs = read_gguf(tmp_path / "q.gguf"), read_gguf(tmp_path / "plain.gguf")
    assert {k: v for k, v in ours.metadata.items() if not k.startswith("general.")} == {
        k: v for k, v in theirs.metadata.items() if not k.startswith("general.")
    }
    network = load_checkpoint(tmp_path / "q.gguf").network
    x = ids(1, 20)
    with torch.no_grad():
        assert torch.nn.functional.cosine_similarity(network(x), model(x).logits, dim=-1).min() > 0.95
    assert main(["convert", "--model", str(tmp_path / "q.gguf"), "--out", str(tmp_path / "folder")]) == 0
    with torch.no_grad():
        torch.testing.assert_close(
            load_checkpoint(tmp_path / "folder").network(x), network(x), atol=2e-5, rtol=1e-4
        )


def test_rows_that_a_type_cannot_hold(tmp_path: Path) -> None:
    """96 inputs are no multiple of 256: Q6_K gives way to Q8_0."""
    values = np.random.default_rng(0).standard_normal((4, 96)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_tensor("blk.0.ffn_up.weight", values)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
    assert quantize_gguf_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "q6_k") == {"Q8_0": 1}
    with pytest.raises(ValueError, match="format must be one of F32"):
        quantize_gguf_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "q7_k")


def test_metadata_comes_back(tmp_path: Path) -> None:
    metadata = {
        "a": 1,
        "b": -5,
        "c": 1 << 40,
        "d": 0.5,
        "e": True,
        "f": "x y",
        "g": ["p", "", "ü"],
        "h": np.arange(3, dtype=np.int32),
        "i": np.array([0.5, 2], np.float32),
        "j": np.array([True, False]),
    }
    write_file(tmp_path / "m.gguf", metadata, [])
    ours, theirs = read_gguf(tmp_path / "m.gguf").metadata, gguf.GGUFReader(tmp_path / "m.gguf").fields
    for key, value in metadata.items():
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        assert np.array_equal(ours[key], value), key
        assert theirs[key].contents() == plain, key
    with pytest.raises(TypeError, match="metadata 'k'"):
        write_file(tmp_path / "n.gguf", {"k": None}, [])
    assert not (tmp_path / "n.gguf").exists()


def test_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in {
        ("--out", "x.gguf", "--method", "awq"): "--method must be rtn",
        ("--out", "x.gguf", "--bits", "7"): "--bits must be one of",
        ("--out", "x.gguf", "--format", "q4_k"): "has no config.json",
    }.items():
        assert main(["quantize", "--model", str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err
