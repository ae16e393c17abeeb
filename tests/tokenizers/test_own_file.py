"""Our own file form: equal to the file it came from, and a ValueError where it is damaged or forged."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer, _tokenizers
from tests.assets import asset
from tests.tokenizers.oracles import huggingface_path
from tests.tokenizers.test_decoding import FILES, TEXT, drawn_ids

SLOW = {
    "gemma3": "tokenizer-gemma3/models/tokenizer.json",
    "mt5": "diffsynth/diffsynth/tokenizer_configs/hunyuan_dit/tokenizer_t5/spiece.model",
    "deepseek3": "tokenizer-deepseek_v3/models/tokenizer.json",
}
TEXTS = [
    TEXT,
    "",
    " ",
    "a",
    "  two  spaces ",
    "ﬁ ①㋿ Ａ\u0301 \u200d",
    "\u2581x",
    "[MASK] <s> </s> <|endoftext|>",
    "日本語" * 9,
]
# Of a file as sections.h describes it.
HEADER, ENTRY = struct.Struct("<8sIIQQ"), struct.Struct("<32sQQQ")
SUFFIX = ".pyllm-tokenizer"


@lru_cache(maxsize=2)
def tokenizer_of(name: str) -> Tokenizer:
    if name == "trained":
        return Tokenizer.train(["hello hello world\n" * 9], 280, special_tokens=["<s>", "</s>"])
    if name == "qwen3":
        return Tokenizer.from_file(huggingface_path(name))
    return Tokenizer.from_file(asset({**FILES, **SLOW}[name]))


def assert_equal(loaded: Tokenizer, original: Tokenizer) -> None:
    names = ("vocab_size", "special_tokens", "pattern", "bos_token", "eos_token", "chat_template")
    for name in (*names, "bos_token_id", "eos_token_id"):
        assert getattr(loaded, name) == getattr(original, name), name
    for text in TEXTS:
        for allowed in ("all", ()):
            options = {"allowed_special": allowed, "disallowed_special": ()}
            expected = original.encode(text, **options)
            assert loaded.encode(text, **options) == expected, text
            assert loaded.count(text, **options) == len(expected)
            for ours, theirs in zip(
                loaded.encode_with_offsets(text, **options),
                original.encode_with_offsets(text, **options),
                strict=True,
            ):
                assert np.array_equal(ours, theirs)
        options = {"add_special_tokens": True, "allowed_special": "all"}
        assert loaded.encode(text, **options) == original.encode(text, **options)
    assert_equal_encoding(loaded, original, "a pair")
    assert_equal_encoding(loaded, original, "a pair", "of texts")
    for ids in (drawn_ids(original, seed, 50) for seed in range(10)):
        assert loaded.decode(ids) == original.decode(ids)
        assert loaded.decode(ids, skip_special_tokens=True) == original.decode(ids, skip_special_tokens=True)


def assert_equal_encoding(loaded: Tokenizer, original: Tokenizer, *texts: str) -> None:
    ours, expected = loaded.encode_plus(*texts), original.encode_plus(*texts)
    for name in ("ids", "offsets", "type_ids", "special_tokens_mask", "word_ids", "sequence_ids"):
        assert np.array_equal(getattr(ours, name), getattr(expected, name)), name


@pytest.mark.parametrize(
    "name", ["trained", *FILES, "qwen3", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_equals_the_file_it_came_from(name: str, tmp_path: Path) -> None:
    original = tokenizer_of(name)
    original.save(tmp_path / f"own{SUFFIX}")
    loaded = Tokenizer.from_file(tmp_path)
    assert_equal(loaded, original)
    pickled = pickle.dumps(original)
    assert_equal(pickle.loads(pickled), original)
    assert len(pickled) < (tmp_path / f"own{SUFFIX}").stat().st_size
    # What is loaded is all there is: it saves as before, in both forms.
    loaded.save(tmp_path / f"again{SUFFIX}")
    assert (tmp_path / f"again{SUFFIX}").read_bytes() == (tmp_path / f"own{SUFFIX}").read_bytes()
    assert pickle.dumps(loaded) == pickled
    refused = refusal(original, tmp_path / "original.json")
    assert refusal(loaded, tmp_path / "loaded.json") == refused
    if refused is None:
        assert (tmp_path / "loaded.json").read_bytes() == (tmp_path / "original.json").read_bytes()


def refusal(tokenizer: Tokenizer, path: Path) -> str | None:
    """Why the tokenizer cannot be saved there, if so."""
    try:
        tokenizer.save(path)
    except ValueError as error:
        return str(error)
    return None


def test_what_was_set_is_kept(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["hello"], 260, special_tokens=["<s>"])
    tokenizer.bos_token, tokenizer.chat_template = "<s>", {"default": "{{ bos_token }}", "other": "x"}
    tokenizer.save(tmp_path / f"own{SUFFIX}")
    for again in (Tokenizer.from_file(tmp_path / f"own{SUFFIX}"), pickle.loads(pickle.dumps(tokenizer))):
        assert (again.bos_token, again.chat_template) == (tokenizer.bos_token, tokenizer.chat_template)
        assert again.apply_chat_template([]) == tokenizer.apply_chat_template([]) == [again.bos_token_id]


def test_a_pickle_holds_no_code() -> None:
    class Strict(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            assert module == "pyllm.tokenizers.tokenizer"
            assert name in ("_unpickled", "Tokenizer")
            return super().find_class(module, name)

    assert_equal(Strict(io.BytesIO(pickle.dumps(tokenizer_of("trained")))).load(), tokenizer_of("trained"))


def test_a_damaged_pickle_is_an_error() -> None:
    function, (kind, file) = tokenizer_of("trained").__reduce__()
    with pytest.raises(ValueError, match="not a sound tokenizer file"):
        function(kind, file[:-1])


def test_another_name_is_recognised_by_content(tmp_path: Path) -> None:
    tokenizer_of("trained").save(tmp_path / f"own{SUFFIX}")
    (tmp_path / f"own{SUFFIX}").rename(tmp_path / "tokenizer.json")
    assert_equal(Tokenizer.from_file(tmp_path / "tokenizer.json"), tokenizer_of("trained"))
    with pytest.raises(ValueError, match="has its own"):
        Tokenizer.from_file(tmp_path / "tokenizer.json", pattern="gpt2")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_file_is_mapped_and_shared(tmp_path: Path) -> None:
    tokenizer_of("minilm").save(tmp_path / f"own{SUFFIX}")
    tokenizer = Tokenizer.from_file(tmp_path / f"own{SUFFIX}")
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert [line.split()[1] for line in lines] == ["r--s"]
    (tmp_path / f"own{SUFFIX}").unlink()
    assert_equal(tokenizer, tokenizer_of("minilm"))


def small_file() -> bytes:
    return saved("trained")


@lru_cache
def saved(name: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        tokenizer_of(name).save(Path(folder) / f"own{SUFFIX}")
        return (Path(folder) / f"own{SUFFIX}").read_bytes()


def load_bytes(file: bytes, folder: Path) -> Tokenizer:
    path = folder / f"damaged{SUFFIX}"
    path.unlink(missing_ok=True)  # never written over while it is mapped
    path.write_bytes(file)
    return Tokenizer.from_file(path)


def directory(file: bytes) -> list[tuple[str, int, int]]:
    """(name, offset, bytes) of each section."""
    count = HEADER.unpack_from(file)[2]
    entries = [ENTRY.unpack_from(file, HEADER.size + i * ENTRY.size) for i in range(count)]
    return [(name.rstrip(b"\0").decode(), offset, size) for name, offset, size, _ in entries]


def test_the_form_is_what_its_header_says() -> None:
    file = small_file()
    magic, version, _, size, _ = HEADER.unpack_from(file)
    assert (magic, version, size) == (b"PYLLMTOK", 1, len(file))
    sections = {name: file[offset : offset + size] for name, offset, size in directory(file)}
    assert all(offset % 64 == 0 for _, offset, _ in directory(file))
    entries = np.frombuffer(sections["tokens.entries"], np.uint32).reshape(-1, 2)
    tokenizer = tokenizer_of("trained")
    for token_id, (offset, length) in enumerate(entries.tolist()):
        assert length >> 31 == 1
        token = sections["tokens.bytes"][offset : offset + (length & 0x7FFFFFFF)]
        assert token == tokenizer.decode_bytes([token_id])


def test_cut_files(tmp_path: Path) -> None:
    file = small_file()
    places = {0, 1, 7, 8, 12, 16, 24, 31, 32, 33, len(file) - 1}
    for i, (_, offset, size) in enumerate(directory(file)):
        places |= {HEADER.size + i * ENTRY.size + field for field in (0, 32, 40, 48)}
        places |= {offset, offset + 1, offset + size // 2, offset + size}
    for place in sorted(places - {len(file)}):
        with pytest.raises(ValueError, match="damaged"):
            load_bytes(file[:place], tmp_path)
    with pytest.raises(ValueError, match="bytes"):
        load_bytes(file + b"\0", tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.integers(0), st.integers(1, 255))
def test_every_flipped_byte_is_found(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    file = bytearray(small_file())
    file[place % len(file)] ^= change
    with pytest.raises(ValueError, match="damaged"):
        load_bytes(bytes(file), tmp_path_factory.getbasetemp())


def forged(file: bytes, changes: dict[str, bytes | None]) -> bytes:
    """The file with other contents and sound checksums; None leaves a section out."""
    writer = _tokenizers.SectionWriter()
    sections = {name: file[offset : offset + size] for name, offset, size in directory(file)}
    for name, content in {**sections, **changes}.items():
        if content is not None:
            writer.text(name, content)
    return writer.finish()


@pytest.mark.parametrize(
    "steps",
    [
        {},
        ["x"],
        [{"type": ["ByteLevel"]}],
        [{"type": "BertProcessing", "cls": ["a", 1], "sep": ["b", -1]}],
        [{"type": "BertProcessing", "cls": ["a", 1], "sep": ["b", 1 << 32]}],
    ],
)
def test_forged_post_processors_are_refused(steps: Any, tmp_path: Path) -> None:
    file = small_file()
    definition = json.loads(_tokenizers.SectionReader.bytes(file).text("definition"))
    definition["post_processors"] = steps
    with pytest.raises(ValueError, match="post_processor"):
        load_bytes(forged(file, {"definition": json.dumps(definition).encode()}), tmp_path)


@pytest.mark.parametrize(
    "name",
    ["trained", "minilm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mistral", "t5 json"))],
)
def test_forged_files_cannot_read_outside(name: str, tmp_path: Path) -> None:
    """Every section in turn: left out, cut, and with numbers that point elsewhere."""
    file, random = saved(name), np.random.default_rng(7)
    refused = 0
    for section, offset, size in directory(file):
        content = file[offset : offset + size]
        variants: list[bytes | None] = [
            None,
            b"",
            content[: size // 2],
            content[: size // 8 * 4],
            content + content,
        ]
        for value in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF):
            for count in (1, 1 + size // 64):
                numbers = np.frombuffer(content[: size // 4 * 4], np.uint32).copy()
                if not numbers.size:
                    continue
                numbers[random.integers(0, numbers.size, count)] = value
                variants.append(numbers.tobytes() + content[size // 4 * 4 :])
        for variant in variants:
            try:
                tokenizer = load_bytes(forged(file, {section: variant}), tmp_path)
            except ValueError:
                refused += 1
                continue
            for text in TEXTS:
                ids = tokenizer.encode(text, allowed_special="all")
                tokenizer.encode_with_offsets(text, disallowed_special=())
                with contextlib.suppress(ValueError):  # ids whose tokens the forger took away
                    tokenizer.decode(ids, errors="ignore")
    assert refused > len(directory(file))
