"""*.tiktoken: one token and its rank on every line, in base64. Pattern and special tokens are not in the file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyllm.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    AddedToken,
    BytePairs,
    TokenizerDefinition,
    pattern_step,
    tokens_by_id,
)
from pyllm.tokenizers.huggingface import END_OF_TEXT
from pyllm.tokenizers.patterns import canonical_pattern

_FILL_IN_THE_MIDDLE = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
_GPT2_TOKENS = {END_OF_TEXT: 50256}
_CL100K_TOKENS = {
    END_OF_TEXT: 100257,
    **{name: 100258 + i for i, name in enumerate(_FILL_IN_THE_MIDDLE)},
    "<|endofprompt|>": 100276,
}
_O200K_TOKENS = {END_OF_TEXT: 199999, "<|endofprompt|>": 200018}
# SHA-256 of OpenAI's published files -> pattern and special tokens.
_PUBLISHED = {
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": ("gpt2", _GPT2_TOKENS),
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": ("gpt2", _GPT2_TOKENS),
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": ("gpt4", _CL100K_TOKENS),
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": ("o200k", _O200K_TOKENS),
}


def load_tiktoken(
    path: Path, pattern: str | None = None, special_tokens: Mapping[str, int] | Iterable[str] | None = None
) -> TokenizerDefinition:
    """Reads a .tiktoken file.

    OpenAI's four files (r50k, p50k, cl100k, o200k) are known by their content; for others `pattern` must be given, and
    `special_tokens` if there are any: name -> id, or names that get the ids after the last rank. Raises ValueError.
    """
    content = path.read_bytes()
    known_pattern, known_tokens = _PUBLISHED.get(hashlib.sha256(content).hexdigest(), (None, {}))
    if pattern is None and known_pattern is None:
        raise ValueError(
            f"{path}: pattern: a name is needed, because the file does not tell its pretokenizer"
        )
    numbered = _parse(content, path)
    special = (
        known_tokens if special_tokens is None else _number(special_tokens, max(numbered, default=-1) + 1)
    )
    for name, token_id in special.items():
        if numbered.setdefault(token_id, name.encode()) != name.encode() or not name:
            raise ValueError(f"special_tokens: id {token_id} of {name!r} is taken, or the name is empty")
    return TokenizerDefinition(
        tokens=tokens_by_id(numbered, f"{path}: ranks"),
        model=BytePairs(None, ignore_merges=True),
        pre_tokenizers=(pattern_step(canonical_pattern(pattern or known_pattern or "")),),
        decoders=(BYTE_LEVEL_DECODER,),
        added_tokens=[AddedToken(name, token_id) for name, token_id in special.items()],
        eos_token=END_OF_TEXT if END_OF_TEXT in special else None,
    )


def _number(special_tokens: Mapping[str, int] | Iterable[str], first: int) -> dict[str, int]:
    if isinstance(special_tokens, Mapping):
        return dict(special_tokens)
    return {name: first + i for i, name in enumerate(special_tokens)}


def _parse(content: bytes, path: Path) -> dict[int, bytes]:
    numbered: dict[int, bytes] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            spelling, rank = line.split()
            token, token_id = base64.b64decode(spelling, validate=True), int(rank)
        except ValueError as error:
            raise ValueError(
                f"{path} line {number}: expected a token in base64 and its rank: {error}"
            ) from None
        if not token or token_id in numbered:
            raise ValueError(f"{path} line {number}: the token is empty or rank {token_id} occurs twice")
        numbered[token_id] = token
    if not numbered:
        raise ValueError(f"{path}: no tokens in it")
    return numbered
