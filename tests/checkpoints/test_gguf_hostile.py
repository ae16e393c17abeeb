"""Hostile GGUF files end in GGUFError: one test per known attack (the list is in docs/checkpoints.md), and a mutation
fuzzer."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from pyllm.checkpoints import load_checkpoint
from pyllm.checkpoints.gguf import GGUFError, read_gguf
from tests.assets import REPOSITORY
from tests.checkpoints.gguf_bytes import ARRAY, STRING, U32, U64, array, key, string, tensor, write
from tests.checkpoints.test_gguf_model import write_gguf
from tests.models.hf import make

HUGE = (1 << 64) - 1


def test_the_list_of_attacks_names_tests() -> None:
    page = (REPOSITORY / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    named = re.findall(r"\| `(\w+\.py)::(\w+)` \|", page)
    assert len(named) > 15
    for file, test in named:
        (path,) = (REPOSITORY / "tests").rglob(file)
        assert f"def {test}(" in path.read_text(encoding="utf-8"), f"{file}::{test}"


def test_dimension_count_beyond_the_limit(tmp_path: Path) -> None:
    """CVE-2024-21802, gguflib's n_dims > 8 stack overflow, and gguf-py's unbounded n_dims."""
    for rank in (5, 9, 0x7FFFFFFF, 0xFFFFFFFF):
        path = write(tmp_path, tensor(b"t", [1] * 4, rank=rank), tensors=1, data=64)
        with pytest.raises(GGUFError, match="dimensions"):
            read_gguf(path)


@pytest.mark.parametrize("length", [HUGE, HUGE - 7, 1 << 63, (1 << 31) + 5, (1 << 30) + 1, 1 << 20])
def test_string_length_beyond_the_file(tmp_path: Path, length: int) -> None:
    """CVE-2024-23496: a length of 2^64 - 1, whose + 1 wraps to zero."""
    for value in (
        struct.pack("<Q", length),
        key(b"a", STRING, struct.pack("<Q", length)),
        array(b"a", STRING, 1, struct.pack("<Q", length)),
    ):
        with pytest.raises(GGUFError, match="bytes"):
            read_gguf(write(tmp_path, value, keys=1, data=64))


@pytest.mark.parametrize(
    ("kind", "length"), [(U64, 1 << 61), (U64, 100), (STRING, 1 << 60), (STRING, HUGE), (7, 1 << 40)]
)
def test_array_length_that_wraps(tmp_path: Path, kind: int, length: int) -> None:
    """CVE-2024-21825, -21836: count times element size wraps."""
    with pytest.raises(GGUFError, match=r"array|bytes"):
        read_gguf(write(tmp_path, array(b"a", kind, length, b""), keys=1, data=64))


@pytest.mark.parametrize("count", [1 << 62, 1 << 20, -1, -(1 << 63)])
def test_counts_beyond_the_file(tmp_path: Path, count: int) -> None:
    """CVE-2024-23605 and llama.cpp #25821: n_tensors, n_kv times item size wraps, or is negative."""
    with pytest.raises(GGUFError, match="tensor count"):
        read_gguf(write(tmp_path, tensors=count, data=64))
    with pytest.raises(GGUFError, match="metadata count"):
        read_gguf(write(tmp_path, keys=count, data=64))


def test_early_end(tmp_path: Path) -> None:
    """CVE-2024-32878: a file that ends at any byte of its header."""
    whole = write(
        tmp_path, key(b"k", U32, struct.pack("<I", 1)), tensor(b"t", [8]), keys=1, tensors=1, data=32
    )
    blob = whole.read_bytes()
    read_gguf(whole)
    for end in range(len(blob)):
        whole.write_bytes(blob[:end])
        with pytest.raises(GGUFError):
            read_gguf(whole)


@pytest.mark.parametrize(
    "dimensions",
    [[1 << 32, 1 << 32], [1 << 62, 4], [HUGE], [1 << 31, 1 << 31, 2, 2], [0, 1 << 40, 1 << 40], [1 << 61]],
)
def test_tensor_size_that_wraps(tmp_path: Path, dimensions: list[int]) -> None:
    """CVE-2026-33298: the product of dimensions and element size wraps to something small."""
    with pytest.raises(GGUFError, match="'t'"):
        read_gguf(write(tmp_path, tensor(b"t", dimensions), tensors=1, data=64))


@pytest.mark.parametrize("offset", [(1 << 64) - 32, 1 << 63, 1 << 40, 64])
def test_offset_that_wraps(tmp_path: Path, offset: int) -> None:
    """CVE-2025-53630 and CVE-2026-27940: a sum of padded sizes or an offset wraps."""
    with pytest.raises(GGUFError, match="'t'"):
        read_gguf(write(tmp_path, tensor(b"t", [16], offset=offset), tensors=1, data=64))


def test_shape_larger_than_the_file(tmp_path: Path) -> None:
    """CVE-2026-7482: a declared shape larger than the file leaks memory that follows."""
    with pytest.raises(GGUFError, match="ends at byte"):
        read_gguf(write(tmp_path, tensor(b"t", [17]), tensors=1, data=64))
    assert read_gguf(write(tmp_path, tensor(b"t", [16]), tensors=1, data=64)).tensor_bytes("t").size == 64


@pytest.mark.parametrize("alignment", [0, 3, 33, 0x80000001, 0xFFFFFFFF])
def test_alignment_that_is_no_power_of_two(tmp_path: Path, alignment: int) -> None:
    """llama.cpp #26318: alignment zero, odd, or one whose padding wraps."""
    with pytest.raises(GGUFError, match="power of two"):
        read_gguf(write(tmp_path, key(b"general.alignment", U32, struct.pack("<I", alignment)), keys=1))


def test_alignment_of_another_type(tmp_path: Path) -> None:
    """llama.cpp #18674: alignment stored as a string, an array or 64 bits."""
    for part in (
        key(b"general.alignment", STRING, string(b"32")),
        key(b"general.alignment", U64, struct.pack("<Q", 32)),
        array(b"general.alignment", U32, 1, struct.pack("<I", 32)),
    ):
        with pytest.raises(GGUFError, match="alignment"):
            read_gguf(write(tmp_path, part, keys=1))


def test_alignment_larger_than_the_file(tmp_path: Path) -> None:
    part = key(b"general.alignment", U32, struct.pack("<I", 1 << 31))
    with pytest.raises(GGUFError, match="ends at byte"):
        read_gguf(write(tmp_path, part, tensor(b"t", [1]), keys=1, tensors=1, data=64))


def test_duplicates(tmp_path: Path) -> None:
    twice = key(b"k", U32, struct.pack("<I", 1)) * 2
    with pytest.raises(GGUFError, match="'k' appears twice"):
        read_gguf(write(tmp_path, twice, keys=2))
    with pytest.raises(GGUFError, match="'t' appears twice"):
        read_gguf(write(tmp_path, tensor(b"t", [1]), tensor(b"t", [1], offset=32), tensors=2, data=64))


def test_overlapping_and_unaligned_tensors(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="overlap"):
        read_gguf(write(tmp_path, tensor(b"a", [16]), tensor(b"b", [1], offset=32), tensors=2, data=64))
    with pytest.raises(GGUFError, match="alignment"):
        read_gguf(write(tmp_path, tensor(b"a", [1], offset=4), tensors=1, data=64))


def test_rows_that_do_not_fill_blocks(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="Q4_0"):
        read_gguf(write(tmp_path, tensor(b"t", [33], kind=2), tensors=1, data=64))


@pytest.mark.parametrize("kind", [-1, 4, 5, 31, 36, 1000])
def test_unknown_types(tmp_path: Path, kind: int) -> None:
    with pytest.raises(GGUFError, match=f"'t' has unknown type {kind}"):
        read_gguf(write(tmp_path, tensor(b"t", [32], kind=kind), tensors=1, data=256))
    with pytest.raises(GGUFError, match="'k'"):
        read_gguf(write(tmp_path, key(b"k", kind + 100, b"\0" * 8), keys=1))


def test_nested_arrays_and_bad_values(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="unsupported element type"):
        read_gguf(write(tmp_path, array(b"a", ARRAY, 1, b"\0" * 12), keys=1, data=64))
    with pytest.raises(GGUFError, match="expected 0 or 1"):
        read_gguf(write(tmp_path, key(b"b", 7, b"\2"), keys=1))
    with pytest.raises(GGUFError, match="UTF-8"):
        read_gguf(write(tmp_path, key(b"s", STRING, string(b"\xff")), keys=1))
    file = read_gguf(write(tmp_path, array(b"s", STRING, 1, string(b"\xff")), keys=1))
    with pytest.raises(GGUFError, match=r"element of 's' .* is not UTF-8"):
        file.metadata["s"]
    with pytest.raises(GGUFError, match="limit is 63"):
        read_gguf(write(tmp_path, tensor(b"n" * 64, [1]), tensors=1, data=64))


def test_other_files(tmp_path: Path) -> None:
    for version, message in (
        (1, "version 1 is not read"),
        (4, "version 4"),
        (3 << 24, "big-endian"),
        (0, "endian"),
    ):
        with pytest.raises(GGUFError, match=message):
            read_gguf(write(tmp_path, version=version))
    with pytest.raises(GGUFError, match="not a GGUF file"):
        read_gguf(write(tmp_path, magic=b"GGML"))
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(GGUFError, match=r"empty\.gguf: not a GGUF file: 0 bytes"):
        read_gguf(tmp_path / "empty.gguf")
    with pytest.raises(FileNotFoundError):
        read_gguf(tmp_path / "absent.gguf")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "ab", "é"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.0, -2.0, 0.5])
    writer.add_custom_alignment(64)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    blocks = np.zeros((2, 34), np.uint8)
    writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _mutated(blob: bytes, rng: random.Random, header_end: int = 480) -> bytes:
    data = bytearray(blob)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        position = rng.randrange(4, header_end)
        action = rng.randrange(5)
        if action == 0:
            data[position] ^= 1 << rng.randrange(8)
        elif action == 1:
            data[position : position + 8] = rng.choice((0, 1, HUGE, 1 << 63, 1 << 32, 1 << 30)).to_bytes(
                8, "little"
            )
        elif action == 2:
            del data[position : position + rng.randrange(1, 16)]
        elif action == 3:
            data[position:position] = rng.randbytes(rng.randrange(1, 16))
        else:
            del data[position + rng.randrange(len(data) - position) :]
            break
    return bytes(data)


def test_mutated_files_are_read_or_refused(small_file: bytes, tmp_path: Path) -> None:
    rng = random.Random(20)
    path = tmp_path / "mutant.gguf"
    refused = 0
    for _ in range(700):
        path.write_bytes(_mutated(small_file, rng))
        try:
            file = read_gguf(path)
            for name, info in file.tensors.items():
                assert file.tensor_bytes(name).size == info.nbytes <= path.stat().st_size
        except GGUFError:
            refused += 1
    assert 200 < refused < 700


def test_mutated_models_are_loaded_or_refused(tmp_path: Path) -> None:
    """The same through the whole loader: configuration, names, shapes, blocks."""
    path = tmp_path / "model.gguf"
    write_gguf(path, make("llama"), lambda name: gguf.GGMLQuantizationType.F16)
    whole = path.read_bytes()
    rng = random.Random(7)
    messages = []
    for _ in range(150):
        path.write_bytes(_mutated(whole, rng, header_end=2600))
        try:
            load_checkpoint(path)
        except ValueError as error:
            messages.append(str(error))
    assert 50 < len(messages) < 150
    assert all(str(path) in message for message in messages)
