"""How llama.cpp cuts text for the `tokenizer.ggml.pre` names of GGUF files.

Each name stands for expressions that are applied one after the other; a match is a piece of its own. They are those of
the models' own tokenizer.json files.
"""

from __future__ import annotations

from pyllm.tokenizers.definition import BYTE_LEVEL_DECODER, Step, pattern_step
from pyllm.tokenizers.patterns import GPT2, LLAMA3, QWEN2

# DeepSeek LLM spells out the letters with case of an older Unicode.
_CASED_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽ"
    "ᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-"
    "Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-"
    "ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_CJK = "[一-龥\u0800-一가-\ud7ff]+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TEKKEN_UPPER, _TEKKEN_LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_JAIS2_SPACES = "|".join(
    rf"\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")
)
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_TEKKEN_UPPER}*{_TEKKEN_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_TEKKEN_UPPER}+{_TEKKEN_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
# Names that one of `patterns.PATTERNS` cuts alike.
_PATTERNS = {
    **dict.fromkeys(
        ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "modern-bert", "roberta-bpe"), "gpt2"
    ),
    **dict.fromkeys(("jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code"), "gpt2"),
    **dict.fromkeys(("gigachat", "a.x-4.0", "mellum", "granite-docling"), "gpt2"),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), "smollm"
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), "llama3"
    ),
    **dict.fromkeys(("jina-v5-nano", "dbrx", "smaug-bpe", "chatglm-bpe", "glm4", "glm5"), "llama3"),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "stablelm2", "kormo", "f2llmv2", "grok-2", "hunyuan"), "qwen2"
    ),
    "gpt-4o": "o200k",
}
_EXPRESSIONS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    "deepseek-llm": (
        r"[\r\n]",
        rf"\s?[{_CASED_LETTERS}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        _CJK,
        r"\p{N}+",
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"),
    "deepseek-v3": DEEPSEEK3,
    "qwen35": (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
    ),
    "tekken": (TEKKEN,),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), (_BLOOM,)),
    "viking": (_BLOOM, r"\p{N}"),
    "jais-2": (LLAMA3.removesuffix(r"\s+(?!\S)|\s+") + _JAIS2_SPACES + r"|\s{1}",),
    "minicpm5": (r"\p{N}{1,3}", QWEN2.replace(r"\p{N}|", r"\p{N}+|")),
    "seed-coder": (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",
    ),
}
# Names whose models take a piece that is a token as that token.
_IGNORE_MERGES = {
    *(
        "llama-bpe",
        "llama3",
        "llama-v3",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "jina-v5-nano",
    ),
    *("glm4", "glm5", "tekken", "minicpm5"),
}
_ADD_BOS = _IGNORE_MERGES - {"glm4", "glm5", "minicpm5"}


def pre_tokenizers_of(pre: object) -> tuple[Step, ...]:
    """The steps of a `tokenizer.ggml.pre`; without one, those of "default". Raises ValueError, naming it."""
    name = "default" if pre in (None, "") else pre
    if not isinstance(name, str) or (name not in _PATTERNS and name not in _EXPRESSIONS):
        known = sorted({*_PATTERNS, *_EXPRESSIONS})
        raise ValueError(f"tokenizer.ggml.pre {pre!r} is not one of the known pretokenizers {known}")
    if name in _PATTERNS:
        return (pattern_step(_PATTERNS[name]),)
    splits = [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        for expression in _EXPRESSIONS[name]
    ]
    return (*splits, BYTE_LEVEL_DECODER)


def pre_tokenizer_names() -> tuple[str, ...]:
    """All names that `pre_tokenizers_of` knows, the best known of equal ones first."""
    return (*_PATTERNS, *_EXPRESSIONS)


def ignores_merges(pre: object) -> bool:
    """Whether a piece that is a token is that token."""
    return pre in _IGNORE_MERGES


def adds_bos(pre: object) -> bool:
    """What a file that does not say so means."""
    return pre in _ADD_BOS
