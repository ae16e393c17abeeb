"""GGUF files whose structure is sound and whose content attacks: vocabularies, chat templates, layer counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pyllm import Tokenizer
from pyllm.checkpoints import GGUFError, load_checkpoint
from pyllm.checkpoints.gguf_write import write_gguf
from tests.checkpoints.test_gguf_model import write_gguf as write_model
from tests.models.hf import make

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _tokenizer(path: Path, tokens: list[str], types: list[int], **keys: Any) -> Tokenizer:
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.zeros(len(tokens), np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
    }
    write_gguf(path, metadata | {key.replace("__", "."): value for key, value in keys.items()}, [])
    return Tokenizer.from_file(path)


@pytest.mark.parametrize("spelling", ["<0x-1>", "<0x100>", "<0xFFFFFFFF>", "<0xGG>", "<0x>"])
def test_byte_tokens_outside_of_a_byte(spelling: str, tmp_path: Path) -> None:
    """lmstudio #2289: "<0x-1>" becomes the index -1 of a table. Here it is no byte's token, and one byte is missing."""
    tokens = ["<unk>", *BYTES[:7], spelling, *BYTES[8:], "a"]
    with pytest.raises(ValueError, match="byte"):
        _tokenizer(tmp_path / "t.gguf", tokens, [2, *[6] * 256, 1])


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('touch ' ~ path) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
        "{{ messages.append(1) or messages.__class__ }}",
    ],
)
def test_chat_templates_run_in_a_sandbox(template: str, tmp_path: Path) -> None:
    """CVE-2024-34359 and CVE-2026-5760: code in the file's chat template."""
    tokenizer = _tokenizer(
        tmp_path / "t.gguf", ["<unk>", *BYTES, "a"], [2, *[6] * 256, 1], tokenizer__chat_template=template
    )
    with pytest.raises(ValueError, match="template"):
        tokenizer.render_chat_template([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("count", [0, 513, 4097, (1 << 31) - 1, (1 << 32) - 1, 1 << 40])
def test_layer_counts(count: int, tmp_path: Path) -> None:
    """llama.cpp #25821: more layers than its arrays hold. Layers without tensors are refused before any is made."""

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop("llama.block_count")
        writer.add_uint64("llama.block_count", count)

    write_model(tmp_path / "m.gguf", make("llama"), edit=edit)
    with pytest.raises(GGUFError if count in (0, 4097) or count > 1 << 30 else ValueError, match=r"m\.gguf"):
        load_checkpoint(tmp_path / "m.gguf")


@pytest.mark.parametrize("token_id", [-1, 3000, 1 << 31])
def test_token_ids_outside_the_vocabulary(token_id: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bos_token_id"):
        _tokenizer(
            tmp_path / "t.gguf",
            ["<unk>", *BYTES, "a"],
            [2, *[6] * 256, 1],
            tokenizer__ggml__bos_token_id=token_id,
        )


def test_a_token_of_megabytes(tmp_path: Path) -> None:
    """CVE-2025-49847: its length in 32 bits. Merges are derived by cutting every token in two: of this one, at the cuts
    that can be two tokens alone."""
    tokens = ["<unk>", *BYTES, "a", "\u2581", "a" * (1 << 22)]
    tokenizer = _tokenizer(
        tmp_path / "t.gguf", tokens, [2, *[6] * 256, 1, 1, 1], tokenizer__ggml__add_bos_token=False
    )
    assert tokenizer.decode(tokenizer.encode("aaa")).strip() == "aaa"
    assert len(tokenizer.decode_bytes([len(tokens) - 1])) == 1 << 22


def test_a_long_text(tmp_path: Path) -> None:
    """CVE-2025-52566: as many ids as there are bytes, which is more than a guess from the text's length allows."""
    tokens = ["<unk>", *BYTES, "\u2581"]
    tokenizer = _tokenizer(
        tmp_path / "t.gguf", tokens, [2, *[6] * 256, 1], tokenizer__ggml__add_bos_token=False
    )
    text = "\U0010fffd" * 1_000_000
    ids = tokenizer.encode(text)
    assert len(ids) == 1 + 4 * len(text)
    assert tokenizer.decode(ids).strip() == text


@pytest.mark.parametrize("architecture", ["plamo2", "clip", ""])
def test_architectures_that_are_not_read(architecture: str, tmp_path: Path) -> None:
    """lmstudio #2289: plamo2's vocabulary and the files of projectors."""
    path = tmp_path / "m.gguf"
    write_gguf(path, {"general.architecture": architecture, "plamo2.block_count": 1}, [])
    with pytest.raises(ValueError, match=f"architecture.*{architecture!r}"):
        load_checkpoint(path)
