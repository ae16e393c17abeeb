"""Packed weights on disk: the same bits as packed anew, and never in the way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

import pyllm.checkpoints.packed_cache as packed_cache
from pyllm.checkpoints import load_checkpoint
from pyllm.nn.quantized import QuantizedLinear
from tests.checkpoints.test_gguf_families import write as write_family
from tests.checkpoints.test_gguf_model import _wide_llama, write_gguf
from tests.models.hf import make

Q8_0, Q4_0 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYLLM_PACKED_CACHE", "64M")
    return tmp_path / "cache" / "packed"


def model_file(path: Path, kind: Any = Q8_0, seed: int = 0) -> Path:
    write_gguf(path, _wide_llama(), lambda name: kind)
    data = bytearray(path.read_bytes())
    for position in range(len(data) // 2, len(data), 97):
        data[position] ^= seed
    path.write_bytes(data)
    os.utime(path, (1e9, 1e9))  # long settled, so that its digest is noted
    return path


def packs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pack"))


def weights(path: Path) -> dict[str, torch.Tensor]:
    network = load_checkpoint(path).network
    found = {
        name: module.weight.data
        for name, module in network.named_modules()
        if isinstance(module, QuantizedLinear)
    }
    assert found
    return found


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, data in first.items():
        assert torch.equal(data, second[name]), name


def refuse_to_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("packed again")

    monkeypatch.setattr(packed_cache.QuantizedTensor, "from_blocks", fail)


def test_the_next_start_packs_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_file(tmp_path / "m.gguf")
    first = weights(path)
    assert len(packs(folder)) == 1
    refuse_to_pack(monkeypatch)
    assert_same(weights(path), first)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())
    assert_same(weights(copy), first)  # found by content


def test_off_unless_asked_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_file(tmp_path / "m.gguf")
    for value in (None, "0", "0G"):
        monkeypatch.delenv("PYLLM_PACKED_CACHE") if value is None else monkeypatch.setenv(
            "PYLLM_PACKED_CACHE", value
        )
        weights(path)
    assert not folder.exists()


@pytest.mark.parametrize("text", ["", "many", "-1", "4 GB of it", "1e99", "4X"])
def test_a_size_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLLM_PACKED_CACHE", text)
    with pytest.raises(ValueError, match="PYLLM_PACKED_CACHE must be a size"):
        packed_cache.limit_bytes()


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("10", 10), ("2k", 2048), ("1.5M", 3 << 19), ("4GB", 4 << 30)]
)
def test_sizes(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLLM_PACKED_CACHE", text)
    assert packed_cache.limit_bytes() == size


def test_another_content_is_another_file(folder: Path, tmp_path: Path) -> None:
    """The same name, size and time; only the inode tells them apart before they are hashed."""
    path, other = model_file(tmp_path / "m.gguf"), model_file(tmp_path / "n.gguf", seed=1)
    first, second = weights(path), weights(other)
    other.replace(path)
    assert_same(weights(path), second)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert len(packs(folder)) == 2


def test_a_file_that_may_still_change_is_hashed_again(folder: Path, tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.gguf")
    os.utime(path)
    weights(path)
    assert not list(folder.glob("*.json"))
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    weights(path)
    assert len(packs(folder)) == 2


def test_another_library_packs_anew(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_file(tmp_path / "m.gguf")
    first = weights(path)
    monkeypatch.setattr(packed_cache, "_library_digest", lambda: "0" * 16)
    assert_same(weights(path), first)
    assert len(packs(folder)) == 2


def test_damaged_files_are_written_again(folder: Path, tmp_path: Path) -> None:
    """Cut off anywhere, emptied, and with a header that lies: what is computed with never changes."""
    path = model_file(tmp_path / "m.gguf")
    first = weights(path)
    (pack,) = packs(folder)
    whole = pack.read_bytes()
    text = whole[16 : 16 + int.from_bytes(whole[8:16], "little")]
    header = json.loads(text)
    name = next(iter(header["weights"]))

    def lie(**entry: Any) -> bytes:
        lied = header | {"weights": header["weights"] | {name: header["weights"][name] | entry}}
        changed = json.dumps(lied).encode()
        return whole[:16] + changed.ljust(len(text)) + whole[16 + len(text) :]

    huge = 1 << 62
    for content in (
        *(whole[:end] for end in (0, 3, 8, 16, 40, 4096, len(whole) // 2, len(whole) - 1)),
        whole + b"\0",
        b"\0" * len(whole),
        whole[:8] + huge.to_bytes(8, "little") + whole[16:],
        whole[:16] + b"[" * 4000 + whole[4016:],
        lie(offset=len(whole) // 64 * 64),
        lie(offset=huge),
        lie(offset=-64),
        lie(offset=1),
        lie(offset=True),
        lie(shape=[1, 32]),
        lie(shape=[huge, huge]),
        lie(shape="ab"),
        lie(shape=[1 << 39, 64]),
        lie(format="nonsense"),
        lie(format=None),
    ):
        pack.write_bytes(content)
        assert_same(weights(path), first)
        assert packs(folder) == [pack]


def test_random_damage_of_the_header(folder: Path, tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.gguf")
    shapes = {name: data.shape for name, data in weights(path).items()}
    (pack,) = packs(folder)
    whole, rng = pack.read_bytes(), random.Random(1)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 5))):
            data[rng.randrange(1200)] = rng.randrange(256)
        pack.write_bytes(bytes(data))
        assert {name: found.shape for name, found in weights(path).items()} == shapes


def test_the_least_recently_used_make_room(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [model_file(tmp_path / f"{seed}.gguf", seed=seed) for seed in range(3)]
    weights(files[0])
    (first,) = packs(folder)
    monkeypatch.setenv("PYLLM_PACKED_CACHE", str(2 * first.stat().st_size + 100))
    os.utime(first, (1, 1))
    weights(files[1])
    second = next(pack for pack in packs(folder) if pack != first)
    os.utime(second, (2, 2))
    weights(files[0])  # used: the other is now the oldest
    weights(files[2])
    assert first in packs(folder)
    assert second not in packs(folder)
    assert len(packs(folder)) == 2
    monkeypatch.setenv("PYLLM_PACKED_CACHE", "100")
    weights(files[1])
    assert len(packs(folder)) == 2  # too large to be kept at all


def test_what_a_writer_left_behind_goes(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    old, new = folder / ".a.pack.1.tmp", folder / ".b.pack.2.tmp"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    weights(model_file(tmp_path / "m.gguf"))
    assert not old.exists()
    assert new.exists()


def test_mapped_weights_outlive_their_file(folder: Path, tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.gguf")
    first = weights(path)
    mapped = weights(path)
    for pack in packs(folder):
        pack.unlink()
    assert_same(mapped, first)
    next(iter(mapped.values()))[0] ^= 255  # memory of its own: nothing reaches a file


def test_concurrent_writers(folder: Path, tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.gguf")
    expected, found = weights(path), []
    packs(folder)[0].unlink()
    threads = [threading.Thread(target=lambda: found.append(weights(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for one in found:
        assert_same(one, expected)
    assert len(packs(folder)) == 1


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="packed weights are not kept"):
        weights(model_file(tmp_path / "m.gguf"))


def test_experts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "moe.gguf"
    kinds = {"_exps.weight": Q8_0, "attn_q.weight": Q8_0}
    write_family(path, make("qwen3_moe-wide"), kinds, expert_feed_forward_length=32)
    first = load_checkpoint(path).network
    refuse_to_pack(monkeypatch)
    x = torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(path).network(x), first(x))


def test_levels_share_a_file(folder: Path, tmp_path: Path) -> None:
    """The layout is one for all: a process at another level reads what this one wrote."""
    path = model_file(tmp_path / "m.gguf", Q4_0)
    weights(path)
    before = [(pack, pack.stat().st_ino) for pack in packs(folder)]
    script = f"import pyllm, torch; pyllm.load({str(path)!r})(torch.tensor([[1, 2]]))"
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYLLM_ISA": "scalar"})
    assert [(pack, pack.stat().st_ino) for pack in packs(folder)] == before
