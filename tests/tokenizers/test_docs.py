"""The Python blocks of docs/tokenizers.md are run as they stand, in a folder with the files that they name."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyllm import Tokenizer
from tests.assets import REPOSITORY

PAGE = (REPOSITORY / "docs" / "tokenizers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
TEXT = "def main():\n    print('hello world, the quick brown fox')\n" * 40


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("books").mkdir()
    for name in ("corpus.txt", "one.txt", "books/a.txt"):
        Path(name).write_text(TEXT)
    with gzip.open("more.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": TEXT}) + "\n")
    Tokenizer.train([TEXT], 300).save("tokenizer.json")
    return tmp_path


def texts() -> Iterator[str]:
    yield TEXT


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(number: int, reader: Path) -> None:
    names = {"Tokenizer": Tokenizer, "texts": texts}
    exec(compile(BLOCKS[number], f"docs/tokenizers.md python block {number}", "exec"), names)
