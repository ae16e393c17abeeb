"""Pretokenizer patterns by name: the grammars of the C++ core, and the regular expressions they are known by."""

from __future__ import annotations

from dataclasses import dataclass

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PREFIX = r"[^\r\n\p{L}\p{N}]?"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACE}"
QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACE}"
O200K = (
    rf"{_PREFIX}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_PREFIX}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"
)
# cl100k as tiktoken writes it, but for Oniguruma, which tokenizers uses and which reads {1,3}+ and $ differently.
CL100K = rf"'(?i:[sdmt]|ll|ve|re)|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"


@dataclass(frozen=True)
class Pattern:
    """A pretokenizer: the C++ grammar, and the regular expression that tokenizer.json gets (None: needs none)."""

    grammar: str
    regex: str | None


PATTERNS = {
    "gpt2": Pattern("gpt2", None),
    "gpt4": Pattern("cl100k", CL100K),
    "o200k": Pattern("o200k", O200K),
    "llama3": Pattern("llama3", LLAMA3),
    "qwen2": Pattern("qwen2", QWEN2),
    "smollm": Pattern("digits_gpt2", None),
    "none": Pattern("none", None),
}
_ALIASES = {
    "r50k": "gpt2",
    "r50k_base": "gpt2",
    "p50k_base": "gpt2",
    "cl100k": "gpt4",
    "cl100k_base": "gpt4",
    "o200k_base": "o200k",
    "o200k_harmony": "o200k",
    "qwen3": "qwen2",
    "starcoder": "smollm",
}
# Expressions found in files, by exact content.
_KNOWN_EXPRESSIONS = {
    GPT2: "gpt2",
    CL100K: "gpt4",
    LLAMA3: "llama3",
    QWEN2: "qwen2",
    O200K: "o200k",
}


def canonical_pattern(name: str) -> str:
    """The key of PATTERNS that `name` means. Raises TypeError or ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"pattern: expected a name, got {type(name).__name__}")
    canonical = _ALIASES.get(name, name)
    if canonical not in PATTERNS:
        known = ", ".join([*PATTERNS, *_ALIASES])
        raise ValueError(f"pattern: expected one of {known}, got {name!r}")
    return canonical


def recognise_expression(expression: object) -> str | None:
    """The pattern whose published regular expression this is, letter by letter, or None."""
    return _KNOWN_EXPRESSIONS.get(expression) if isinstance(expression, str) else None
