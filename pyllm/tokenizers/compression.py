"""How much text a token holds, by tokenizer."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pyllm.tokenizers.tiktoken_file import load_tiktoken
from pyllm.tokenizers.tokenizer import Tokenizer

_OPENAI = "https://openaipublic.blob.core.windows.net/encodings/"
# Vocabularies that other programs have fetched: files of tiktoken's cache by address, folders of Hugging Face's hub
# cache by what the model's name begins with.
_RANKS = {
    "gpt2": _OPENAI + "r50k_base.tiktoken",
    "cl100k": _OPENAI + "cl100k_base.tiktoken",
    "o200k": _OPENAI + "o200k_base.tiktoken",
}
_MODELS = {
    "llama3": ("Meta-Llama-3", "Llama-3"),
    "qwen3": ("Qwen3-",),
}


def compression(tokenizer: Tokenizer, texts: Iterable[str | bytes]) -> float:
    """UTF-8 bytes per token over all texts: the higher, the fewer tokens a text takes.

    Special tokens in a text are encoded as plain text. NaN where there is no text.
    """
    size = tokens = 0
    for text in texts:
        size += len(text.encode() if isinstance(text, str) else text)
        tokens += tokenizer.count(text, disallowed_special=())
    return size / tokens if tokens else float("nan")


def well_known() -> dict[str, Tokenizer]:
    """The well-known vocabularies that tiktoken and Hugging Face have left in their caches on this machine, by name."""
    found = {}
    for name, address in _RANKS.items():
        file = _tiktoken_cache() / hashlib.sha1(address.encode()).hexdigest()
        if file.is_file():
            found[name] = Tokenizer(load_tiktoken(file))
    for name, beginnings in _MODELS.items():
        for file in sorted(_hub_cache().glob("models--*/snapshots/*/tokenizer.json")):
            if file.parts[-4].split("--")[-1].startswith(beginnings):
                found[name] = Tokenizer.from_file(file)
                break
    return found


def _tiktoken_cache() -> Path:
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if os.environ.get(variable):
            return Path(os.environ[variable])
    return Path(tempfile.gettempdir(), "data-gym-cache")


def _hub_cache() -> Path:
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"])
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home, "hub")
