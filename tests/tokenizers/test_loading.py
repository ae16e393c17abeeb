"""Loaders: what they read, what they refuse, and that damaged files end in ValueError."""

from __future__ import annotations

import base64
import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from pyllm.tokenizers.patterns import CL100K, LLAMA3, O200K, QWEN2
from tests.assets import asset
from tests.tokenizers.oracles import huggingface_path, ours, tiktoken_path


@lru_cache
def trained() -> Tokenizer:
    return Tokenizer.train(["hello hello world\n" * 9], 280, special_tokens=["<s>", "</s>"])


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A small sound tokenizer.json."""
    trained().save(tmp_path / "sound.json")
    return json.loads((tmp_path / "sound.json").read_text())


def load(document: Any, folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return Tokenizer.from_file(file)


def test_llama3_puts_bos_in_front() -> None:
    tokenizer = ours("llama3_1")
    assert tokenizer.bos_token == "<|begin_of_text|>"
    assert tokenizer.encode("hi", add_special_tokens=True) == [128000, *tokenizer.encode("hi")]
    assert tokenizer.encode_batch(["hi"], add_special_tokens=True)[0][0] == 128000
    assert tokenizer.encode_to_numpy("hi", add_special_tokens=True)[0] == 128000
    assert tokenizer.count("hi", add_special_tokens=True) == len(tokenizer.encode("hi")) + 1


def test_gguf_gives_special_tokens_and_template() -> None:
    tokenizer = ours("smollm2")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.vocab_size == 49152
    assert tokenizer.encode("hi", add_special_tokens=True) == tokenizer.encode("hi")  # add_bos_token is false
    assert "<|im_start|>" in tokenizer.chat_template


@pytest.mark.parametrize(
    ("expression", "pattern"), [(CL100K, "gpt4"), (LLAMA3, "llama3"), (QWEN2, "qwen2"), (O200K, "o200k")]
)
def test_expressions_are_recognised_by_content(
    document: dict[str, Any], expression: str, pattern: str, tmp_path: Path
) -> None:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    document["pre_tokenizer"]["pretokenizers"][0] = split
    assert load(document, tmp_path).pattern == pattern
    document["pre_tokenizer"]["pretokenizers"][0] = {**split, "behavior": "Removed", "invert": True}
    assert load(document, tmp_path).pattern == pattern


REFUSED = [
    ({"model": {"type": "Unigram"}}, "model.vocab: expected list"),
    ({"model": {"type": "WordPiece"}}, "model WordPiece"),
    ({"model": {"type": "WordLevel"}}, "WordLevel"),
    ({"model": {"dropout": 0.1}}, "dropout"),
    ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
    ({"model": {"strange": 1}}, "strange"),
    ({"normalizer": {"type": "Nmt"}}, "Nmt"),
    ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}]}}, "ByteLevel"),
    ({"normalizer": {"type": "NFC", "strange": 1}}, "strange"),
    ({"pre_tokenizer": {"type": "UnicodeScripts"}}, "UnicodeScripts"),
    ({"pre_tokenizer": {"pretokenizers": {0: {"pattern": {"Regex": r"(?<=a)b"}}}}}, "group is not supported"),
    ({"pre_tokenizer": {"pretokenizers": {0: {"pattern": {"Regex": r"\p{Greek}"}}}}}, "Greek"),
    ({"pre_tokenizer": {"pretokenizers": {0: {"behavior": "Strange"}}}}, "Strange"),
    ({"post_processor": {"type": "Strange"}}, "Strange"),
    ({"decoder": {"type": "CTC"}}, "CTC"),
]


def patched(value: Any, patch: Any) -> Any:
    """`value` with parts replaced: dicts in `patch` reach into dicts and lists."""
    if isinstance(patch, dict) and isinstance(value, list):
        return [patched(item, patch[i]) if i in patch else item for i, item in enumerate(value)]
    if isinstance(patch, dict) and isinstance(value, dict) and "type" not in patch:
        return {**value, **{key: patched(value.get(key), part) for key, part in patch.items()}}
    if isinstance(patch, dict) and isinstance(value, dict):
        return {**value, **patch}
    return patch


@pytest.mark.parametrize(("patch", "message"), REFUSED)
def test_unsupported_parts_are_named(
    document: dict[str, Any], patch: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load(patched(document, patch), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"model": 3}',
        '{"model": {}}',
        "[" * 100_000,
        '{"model": {"type": "BPE", "vocab": {"a": -1}}}',
    ],
)
def test_files_that_are_no_tokenizer(content: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load(content, tmp_path)


DAMAGE = [
    lambda d: d["model"]["vocab"].update({"zz": 5}),
    lambda d: d["model"]["vocab"].update({"zz": 1 << 60}),
    lambda d: d["model"]["vocab"].update({"zz": -1}),
    lambda d: d["model"]["vocab"].update({"zz": 1.5}),
    lambda d: d["model"]["vocab"].update({"zz": True}),
    lambda d: d["model"]["merges"].append(["a", "nowhere"]),
    lambda d: d["model"]["merges"].append("a b c"),
    lambda d: d["model"]["merges"].append(3),
    lambda d: d["model"].update(merges=None),
    lambda d: d["added_tokens"].append({"id": 3, "content": "other", "special": True}),
    lambda d: d["added_tokens"].append({"id": 999, "content": "<s>", "special": True}),
    lambda d: d["added_tokens"].append({"id": 999, "content": "", "special": True}),
    lambda d: d["added_tokens"].append({"id": "x", "content": "y"}),
    lambda d: d["added_tokens"].append({"id": 1 << 40, "content": "y"}),
    lambda d: d["added_tokens"].append({"id": 999, "content": "y", "special": "yes"}),
    lambda d: d.update(
        post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "no"}}]}
    ),
    lambda d: d.update(post_processor={"type": "TemplateProcessing", "single": "A"}),
    lambda d: d.update(pre_tokenizer=3),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(document: dict[str, Any], damage: Any, tmp_path: Path) -> None:
    load(document, tmp_path)
    broken = copy.deepcopy(document)
    damage(broken)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load(broken, tmp_path)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_files_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    trained().save(folder / "tokenizer.json")
    content = bytearray((folder / "tokenizer.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    (folder / "tokenizer.json").write_bytes(content)
    try:
        tokenizer = Tokenizer.from_file(folder)
    except ValueError:
        return
    tokenizer.decode(tokenizer.encode("hello <s> world", disallowed_special=()))


def test_tiktoken_pattern_and_special_tokens(tmp_path: Path) -> None:
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    file = tmp_path / "mine.tiktoken"
    file.write_text("\n".join([*lines, f"{base64.b64encode(b'ab').decode()} 256"]))
    with pytest.raises(ValueError, match="pattern"):
        Tokenizer.from_file(file)
    tokenizer = Tokenizer.from_file(file, pattern="gpt2", special_tokens=["<|endoftext|>", "<|pad|>"])
    assert tokenizer.special_tokens == {"<|endoftext|>": 257, "<|pad|>": 258}
    assert tokenizer.eos_token_id == 257
    assert tokenizer.encode("abc") == [256, ord("c")]
    numbered = Tokenizer.from_file(file, pattern="gpt2", special_tokens={"<s>": 300})
    assert numbered.vocab_size == 301
    for wrong in ({"<s>": 3}, {"": 300}, {"<s>": -1}, {"<s>": 1 << 50}):
        with pytest.raises(ValueError, match=r"special_tokens|ids"):
            Tokenizer.from_file(file, pattern="gpt2", special_tokens=wrong)


def test_openai_files_are_known_by_content() -> None:
    tokenizer = Tokenizer.from_file(tiktoken_path("cl100k"))
    assert (tokenizer.pattern, tokenizer.special_tokens["<|endofprompt|>"]) == ("gpt4", 100276)
    plain = Tokenizer.from_file(tiktoken_path("cl100k"), pattern="llama3", special_tokens=())
    assert (plain.pattern, plain.special_tokens) == ("llama3", {})


@pytest.mark.parametrize(
    "line", ["!!! 256", "YWI=", "YWI= x", "YWI= 3", "YWI= -1", f"YWI= {1 << 60}", " = 256", "a b c", "\xff 1"]
)
def test_damaged_tiktoken_files(line: str, tmp_path: Path) -> None:
    good = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    file = tmp_path / "x.tiktoken"
    file.write_bytes("\n".join([*good, line]).encode("latin-1"))
    with pytest.raises(ValueError, match=r"x\.tiktoken"):
        Tokenizer.from_file(file, pattern="gpt2")
    file.write_text("\n".join(good[:200]))
    with pytest.raises(ValueError, match="byte 200"):
        Tokenizer.from_file(file, pattern="gpt2")


@pytest.mark.parametrize(("key", "message"), [("pre", "strange"), ("model", "strange")])
def test_unsupported_gguf_vocabularies_are_named(key: str, message: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tokenizer_model("strange" if key == "model" else "gpt2")
    writer.add_tokenizer_pre("strange" if key == "pre" else "gpt-2")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_merges(["a b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_file(tmp_path / "x.gguf")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_gguf_vocabularies(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(asset("tokenizer_vectors/ggml-vocab-gpt-2.gguf").read_bytes())
    at = data.draw(st.one_of(st.integers(0, 2000), st.integers(0, len(content) - 1)))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.mktemp("gguf") / "x.gguf"
    file.write_bytes(content)
    try:
        tokenizer = Tokenizer.from_file(file)
    except ValueError:
        return
    tokenizer.encode("some text 123", disallowed_special=())


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        Tokenizer.from_file(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        Tokenizer.from_file(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.bin"):
        Tokenizer.from_file(tmp_path / "x.bin")
    with pytest.raises(ValueError, match="special_tokens"):
        Tokenizer.from_file(huggingface_path("qwen3"), special_tokens=["<s>"])
    with pytest.raises(ValueError, match="gpt5"):
        Tokenizer.from_file(huggingface_path("qwen3"), pattern="gpt5")
