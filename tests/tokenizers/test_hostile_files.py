"""Tokenizer files made to harm: each ends in a ValueError that names the file, soon and without much memory."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from pyllm import Tokenizer, _tokenizers
from tests.fuzz.harness import limited_memory
from tests.fuzz.tokenizer_files import byte_level_document, own_sections


def write_json(folder: Path, **parts: Any) -> Path:
    """A sound tokenizer.json but for the parts given."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**byte_level_document(), **parts}))
    return path


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Split", "pattern": {"Regex": "a\ud83d"}, "behavior": "Isolated"},
        {"type": "Split", "pattern": {"String": "\udc00"}, "behavior": "Isolated"},
        {"type": "CharDelimiterSplit", "delimiter": "\ud800"},
    ],
)
def test_half_a_character_in_a_step(step: dict[str, Any], tmp_path: Path) -> None:
    """JSON spells lone surrogates; they have no UTF-8."""
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*surrogate"):
        Tokenizer.from_file(write_json(tmp_path, pre_tokenizer=step))


def test_a_step_that_is_not_supported_is_found_in_its_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json: normalizer: type"):
        Tokenizer.from_file(write_json(tmp_path, normalizer={"type": {"type": "NFC"}}))


def test_tokenizer_class_of_another_type(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": {}}')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: tokenizer_class: expected str"):
        Tokenizer.from_file(tmp_path / "vocab.json")


def test_missing_bytes_are_found_in_their_file(tmp_path: Path) -> None:
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(255)]
    (tmp_path / "x.tiktoken").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"x\.tiktoken: tokens: byte 255"):
        Tokenizer.from_file(tmp_path / "x.tiktoken", pattern="gpt2")


@pytest.mark.parametrize(
    "expression",
    [
        "(?:(?:(?:(?:a?){9}){9}){9}){9}",
        "(?:.?){1000}x(?:.?){1000}",
        "[ab]*a[ab]{12}",
        "(?:a{1000}){1000}",
        "".join(map(chr, range(0x4E00, 0x9000))),
        "(" * 100_000,
        "[" * 100_000,
        r"\p{L}" * 200_000,
        r"\w" * 200_000,
        "[" + r"\p{L}" * 20_000,
    ],
    ids=lambda expression: expression[:20],
)
def test_expressions_that_would_need_too_many_states(expression: str, tmp_path: Path) -> None:
    """They are compiled to a table of states (CVE-2025-2099 and -6638 are expressions that backtrack)."""
    step = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
    path = write_json(tmp_path, pre_tokenizer=step)
    begin = time.process_time()
    with limited_memory(), pytest.raises(ValueError, match=r"tokenizer\.json: regular expression"):
        Tokenizer.from_file(path)
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("steps", [1, 200])
def test_normalizers_that_make_a_text_grow_without_end(steps: int, tmp_path: Path) -> None:
    """Two hundred steps that double the text, and one that makes a megabyte of each letter."""
    content = "aa" if steps > 1 else "a" * 1_000_000
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": content}
    document = {"type": "Sequence", "normalizers": [replace] * steps}
    tokenizer = Tokenizer.from_file(write_json(tmp_path, normalizer=document))
    with limited_memory(), pytest.raises(ValueError, match="normalizers: the text grows"):
        tokenizer.encode("a" * 1000)
    assert tokenizer.encode("b") == tokenizer.encode(b"b")


def test_normalizers_may_make_a_text_grow_as_unicode_does(tmp_path: Path) -> None:
    """U+FDFA becomes 18 characters, whose spaces Metaspace's marker makes larger again."""
    steps = [{"type": "NFKC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁▁"}]
    path = write_json(tmp_path, normalizer={"type": "Sequence", "normalizers": steps})
    text = "\ufdfa" * 100_000
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(path))
    assert Tokenizer.from_file(path).encode(text) == theirs.encode(text).ids


def test_half_a_character_in_our_own_form(tmp_path: Path) -> None:
    path = tmp_path / "x.pyllm-tokenizer"
    Tokenizer.train(["text"], 257).save(path)
    sections = own_sections(path.read_bytes())
    sections["definition"] = sections["definition"].replace(b'"bos_token": null', b'"bos_token": "\\ud800"')
    writer = _tokenizers.SectionWriter()
    for name, part in sections.items():
        writer.text(name, part)
    path.write_bytes(writer.finish())
    with pytest.raises(ValueError, match=r"x\.pyllm-tokenizer: .*surrogate"):
        Tokenizer.from_file(path)


def test_our_own_form_with_another_start(tmp_path: Path) -> None:
    path = tmp_path / "x.pyllm-tokenizer"
    Tokenizer.train(["text"], 257).save(path)
    path.write_bytes(b"Q" + path.read_bytes()[1:])
    with pytest.raises(
        ValueError, match=r"x\.pyllm-tokenizer: not a sound tokenizer file: it starts otherwise"
    ):
        Tokenizer.from_file(path)
