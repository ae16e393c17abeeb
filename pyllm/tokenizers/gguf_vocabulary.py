"""The tokenizer inside of a GGUF model file (keys tokenizer.ggml.* and tokenizer.chat_template)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyllm.checkpoints.gguf import read_gguf
from pyllm.tokenizers.byte_alphabet import unspell
from pyllm.tokenizers.definition import AddedToken, TokenizerDefinition, merge_ids
from pyllm.tokenizers.files import expect
from pyllm.tokenizers.patterns import canonical_pattern

_CONTROL, _USER_DEFINED = 3, 4
# tokenizer.ggml.pre -> pattern, where llama.cpp's splitting equals the published one.
_PATTERNS = {
    "gpt-2": "gpt2",
    "phi-2": "gpt2",
    "smollm": "smollm",
    "starcoder": "smollm",
    "refact": "smollm",
    "command-r": "smollm",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "gpt-4o": "o200k",
}
_CHAT_TEMPLATE = "tokenizer.chat_template"


def load_gguf_vocabulary(path: Path, pattern: str | None = None) -> TokenizerDefinition:
    """Reads the tokenizer of a GGUF file; `pattern` replaces its `tokenizer.ggml.pre`.

    Raises ValueError (GGUFError for a file that is no sound GGUF) for models other than byte-level BPE ("gpt2") and
    for an unknown `pre`, naming them.
    """
    metadata = read_gguf(path).metadata
    try:
        return _definition(metadata, pattern)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _definition(metadata: Mapping[str, Any], pattern: str | None) -> TokenizerDefinition:
    model = metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise ValueError(
            f"tokenizer.ggml.model {model!r} is not supported yet (only byte-level BPE, 'gpt2', is)"
        )
    spellings = _strings(metadata, "tokenizer.ggml.tokens")
    types = np.asarray(metadata.get("tokenizer.ggml.token_type", np.ones(len(spellings), dtype=np.int32)))
    if types.shape != (len(spellings),):
        raise ValueError(
            f"tokenizer.ggml.token_type: expected {len(spellings)} numbers, got shape {types.shape}"
        )
    added = [
        AddedToken(spelling, i, special=kind == _CONTROL)
        for i, (spelling, kind) in enumerate(zip(spellings, types.tolist(), strict=True))
        if kind in (_CONTROL, _USER_DEFINED) and spelling
    ]
    pre = metadata.get("tokenizer.ggml.pre")
    bos, eos = (_special_id(metadata, name, len(spellings)) for name in ("bos", "eos"))
    # llama.cpp reads llama-bpe files without the flag as if it were set.
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", _PATTERNS.get(str(pre)) == "llama3")
    add_eos = metadata.get("tokenizer.ggml.add_eos_token", False)
    return TokenizerDefinition(
        tokens=_tokens(spellings, added),
        merges=merge_ids(
            _strings(metadata, "tokenizer.ggml.merges"),
            {spelling: i for i, spelling in enumerate(spellings)},
            "tokenizer.ggml.merges",
        ),
        pattern=canonical_pattern(pattern) if pattern else _pattern(pre),
        ignore_merges=_PATTERNS.get(str(pre)) == "llama3",
        added_tokens=added,
        prefix_ids=(bos,) if add_bos and bos is not None else (),
        suffix_ids=(eos,) if add_eos and eos is not None else (),
        bos_token=spellings[bos] if bos is not None else None,
        eos_token=spellings[eos] if eos is not None else None,
        chat_template=_chat_template(metadata),
    )


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    strings = expect(metadata.get(key), list, key)
    return [expect(string, str, key) for string in strings]


def _pattern(pre: Any) -> str:
    if pre not in _PATTERNS:
        raise ValueError(
            f"tokenizer.ggml.pre {pre!r} is not one of the known pretokenizers {sorted(_PATTERNS)}"
        )
    return _PATTERNS[pre]


def _tokens(spellings: list[str], added: list[AddedToken]) -> list[bytes | None]:
    verbatim = {token.id for token in added}
    tokens: list[bytes | None] = []
    for token_id, spelling in enumerate(spellings):
        try:
            tokens.append(spelling.encode() if token_id in verbatim else unspell(spelling))
        except ValueError:
            tokens.append(spelling.encode())  # padding entries and the like
    return tokens


def _special_id(metadata: Mapping[str, Any], name: str, vocab_size: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in metadata:
        return None
    token_id = expect(metadata[key], int, key)
    if not 0 <= token_id < vocab_size:
        raise ValueError(f"{key}: {token_id} is not an id of the {vocab_size} tokens")
    return token_id


def _chat_template(metadata: Mapping[str, Any]) -> str | dict[str, str] | None:
    template = metadata.get(_CHAT_TEMPLATE)
    named = {
        key[len(_CHAT_TEMPLATE) + 1 :]: expect(value, str, key)
        for key, value in metadata.items()
        if key.startswith(f"{_CHAT_TEMPLATE}.")
    }
    if template is None:
        return named or None
    text = expect(template, str, _CHAT_TEMPLATE)
    return {"default": text, **named} if named else text
