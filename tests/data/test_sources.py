from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.data import read_pieces, standard_library_files
from pyllm.data.sources import PIECE_CHARACTERS, cut


def documents(paths: list[Path]) -> list[str]:
    """Whole documents again, from their pieces."""
    whole, parts = [], []
    for piece in read_pieces(paths):
        parts.append(piece.text)
        if piece.ends_document:
            whole.append("".join(parts))
            parts = []
    assert not parts
    return whole


def test_reads_text_and_jsonl_plain_and_gzipped(tmp_path: Path) -> None:
    text, lines = "näive\r\ntext\n", ["one", "two\nlines", "日本語"]
    jsonl = "\n\n".join(json.dumps({"text": line, "other": 1}) for line in lines)
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.jsonl").write_text(jsonl)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(jsonl.encode()))
    assert documents([tmp_path]) == [text, text, *lines, *lines]
    assert documents([tmp_path / "d.jsonl.gz", tmp_path / "a.txt"]) == [*lines, text]


def test_walks_folders_in_order_for_text_files_only(tmp_path: Path) -> None:
    for name in ("z.md", "a/b.py", "a/a.txt", "a.bin", "a/c.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents([tmp_path]) == ["z.md", "a/a.txt", "a/b.py"]
    assert documents([tmp_path / "a.bin"]) == ["a.bin"]


def test_a_file_larger_than_a_block_comes_whole_and_in_bounded_pieces(tmp_path: Path) -> None:
    text = "".join(f"line {number}: žluťoučký kůň\n" for number in range(60_000))
    assert len(text.encode()) > 1 << 20
    (tmp_path / "long.txt").write_text(text)
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": text}))
    for name in ("long.txt", "long.jsonl"):
        pieces = list(read_pieces([tmp_path / name]))
        assert "".join(piece.text for piece in pieces) == text
        assert all(0 < len(piece.text) <= PIECE_CHARACTERS for piece in pieces)
        assert all(piece.text.endswith("\n") for piece in pieces)
        assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]


@given(st.text(alphabet="ab \n", max_size=200), st.integers(2, 20))
def test_cut_loses_nothing(text: str, limit: int) -> None:
    parts = cut(text, limit)
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts)
    assert all(parts) or text == ""
    for part in parts[:-1]:
        assert part.endswith("\n") or "\n" not in part[limit // 2 :]


def test_empty_documents_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n{"text": "x"}\n')
    assert documents([tmp_path]) == ["x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 is not JSON"),
        (b'{"body": "x"}', 'line 2: expected an object with a string "text"'),
        (b'{"text": 3}', "line 2: expected an object"),
        (b"[]", "line 2: expected an object"),
        (b'{"text": "\\ud800"}', "line 2: the text has a lone surrogate at character 0"),
        (b'{"text": "\xff"}', "line 2 is not JSON"),
        (b"[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_bad_jsonl_names_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=message) as error:
        list(read_pieces([file]))
    assert "bad.jsonl" in str(error.value)


def test_undecodable_text_names_file_and_byte(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"x" * (1 << 20) + "né".encode("latin-1") + b"!")
    with pytest.raises(ValueError, match=r"latin.txt' is not UTF-8 text \(byte 1048577"):
        list(read_pieces([tmp_path / "latin.txt"]))
    (tmp_path / "cut.txt").write_bytes("日本".encode()[:-1])
    with pytest.raises(ValueError, match=r"cut.txt' is not UTF-8 text \(byte 3"):
        list(read_pieces([tmp_path / "cut.txt"]))


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "flipped"])
def test_broken_gzip_names_the_file(tmp_path: Path, damage: str) -> None:
    whole = gzip.compress(b"some text " * 1000)
    flipped = whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:]
    content = {"truncated": whole[:-9], "not gzip": b"plain text", "flipped": flipped}[damage]
    (tmp_path / "broken.txt.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.txt.gz' is not a complete gzip file"):
        list(read_pieces([tmp_path / "broken.txt.gz"]))


def test_missing_path_and_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(read_pieces([tmp_path / "nowhere"]))
    (tmp_path / "image.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="no text files"):
        list(read_pieces([tmp_path]))


def test_the_default_corpus_is_the_standard_library() -> None:
    files = standard_library_files()
    names = {file.name for file in files}
    assert {"argparse.py", "dataclasses.py", "decoder.py"} <= names
    assert not any("site-packages" in file.parts or "test" in file.parts for file in files)
    pieces = list(read_pieces([]))
    assert sum(len(piece.text) for piece in pieces) > 5_000_000
    assert pieces == list(read_pieces([]))
