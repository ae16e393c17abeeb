"""Random but valid tokenizer.json documents: every model, step and flag that is supported."""

from __future__ import annotations

import random
from typing import Any

from pyllm.tokenizers.byte_alphabet import spell
from pyllm.tokenizers.patterns import CL100K, LLAMA3, O200K, QWEN2

Document = dict[str, Any]

_LETTERS = "abcdeothe ,.'\n0159éßΣ世界▁-#AB"
_EXPRESSIONS = (
    *(CL100K, LLAMA3, O200K, QWEN2),
    *(
        r"\s+",
        r"\p{L}+|\p{N}{1,3}",
        r"[^\s]+|\s",
        r"\d",
        r"[A-Z]?[a-z]+",
        r"(?i:'s|'t)| ?\w+",
        r"\p{P}",
        r"a|ab|b+?",
    ),
    *(r" ?[^\s\p{L}]+", r"\s+(?!\S)|\S+", r"[\u0300-\u036f]", r".", r"ab?c*"),
)
_BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


def random_document(rng: random.Random) -> Document:
    """Any of the kinds below."""
    return rng.choice((byte_level, character_level, unigram, word_piece))(rng)


def byte_level(rng: random.Random) -> Document:
    symbols = [spell(bytes([byte])) for byte in range(256)]
    if rng.random() < 0.1:
        del symbols[rng.randrange(256)]
    tokens, merges = _grow(rng, symbols, [spell(letter.encode()[:1]) for letter in _LETTERS])
    vocabulary = _numbered(rng, tokens)
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": rng.random() < 0.4}
    steps = [_split(rng)] if rng.random() < 0.6 else []
    if rng.random() < 0.2:
        steps.insert(0, {"type": "Digits", "individual_digits": rng.random() < 0.5})
    prefix = rng.random() < 0.3
    last = {
        "type": "ByteLevel",
        "add_prefix_space": prefix,
        "trim_offsets": True,
        "use_regex": rng.random() < 0.5,
    }
    return _document(
        rng,
        model,
        _normalizers(rng, ("NFC", "NFD", "NFKC", "Lowercase", "Replace", "Strip")),
        [*steps, last],
        [last],
    )


def _byte_tokens(rng: random.Random) -> list[str]:
    """Seldom without some: text that needs one of those is unknown."""
    missing = rng.sample(range(256), rng.choice((1, 40, 200))) if rng.random() < 0.3 else []
    return [f"<0x{byte:02X}>" for byte in range(256) if byte not in missing]


def character_level(rng: random.Random) -> Document:
    """SentencePiece's BPE as transformers converts it."""
    fallback = rng.random() < 0.6
    letters = list(dict.fromkeys(rng.sample(_LETTERS, rng.randrange(5, len(_LETTERS)))))
    tokens, merges = _grow(rng, letters, letters)
    tokens = [
        *(["<unk>"] if rng.random() < 0.8 else []),
        *(_byte_tokens(rng) if fallback else []),
        *tokens,
    ]
    model = {
        "type": "BPE",
        "vocab": _numbered(rng, tokens),
        "merges": merges,
        "unk_token": "<unk>" if "<unk>" in tokens else None,
        "fuse_unk": rng.random() < 0.5,
        "byte_fallback": fallback,
        "ignore_merges": rng.random() < 0.3,
    }
    if rng.random() < 0.5:
        marker: Document = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        prefix: Document = {"type": "Prepend", "prepend": "▁"}
        normalizers, steps = [prefix, marker], []
    else:
        normalizers, steps = _normalizers(rng, ("NFC", "NFKC", "Lowercase", "Replace")), _pre_tokenizers(rng)
    return _document(rng, model, normalizers, steps, _sentencepiece_decoders(rng))


def unigram(rng: random.Random) -> Document:
    fallback = rng.random() < 0.3
    letters = list(dict.fromkeys(rng.sample(_LETTERS, rng.randrange(5, len(_LETTERS)))))
    tokens, _ = _grow(rng, letters, letters)
    tokens = ["<unk>", *(_byte_tokens(rng) if fallback else []), *tokens]
    # Far apart, so that no tie hangs on the last bit.
    scores = [-rng.randrange(1, 1 << 20) / (1 << 14) for _ in tokens]
    model = {
        "type": "Unigram",
        "unk_id": 0,
        "vocab": [list(pair) for pair in zip(tokens, scores, strict=True)],
    }
    if fallback:
        model["byte_fallback"] = True
    return _document(
        rng,
        model,
        _normalizers(rng, ("NFKC", "Lowercase", "Replace", "Strip")),
        _pre_tokenizers(rng),
        _sentencepiece_decoders(rng),
    )


def word_piece(rng: random.Random) -> Document:
    letters = list(dict.fromkeys(rng.sample(_LETTERS, rng.randrange(5, len(_LETTERS)))))
    tokens, _ = _grow(rng, letters, letters)
    prefix = rng.choice(("##", "##", "@@", "_"))
    pieces = [token if rng.random() < 0.5 else prefix + token for token in tokens]
    model = {
        "type": "WordPiece",
        "vocab": _numbered(rng, list(dict.fromkeys(["[UNK]", *pieces]))),
        "unk_token": "[UNK]",
        "continuing_subword_prefix": prefix,
        "max_input_chars_per_word": rng.choice((100, 100, 5, 1)),
    }
    bert = {
        "type": "BertNormalizer",
        "clean_text": rng.random() < 0.5,
        "handle_chinese_chars": rng.random() < 0.5,
        "strip_accents": rng.choice((None, True, False)),
        "lowercase": rng.random() < 0.5,
    }
    normalizers = (
        [bert] if rng.random() < 0.6 else _normalizers(rng, ("NFD", "StripAccents", "Lowercase", "Strip"))
    )
    decoder = {"type": "WordPiece", "prefix": prefix, "cleanup": rng.random() < 0.5}
    return _document(rng, model, normalizers, _pre_tokenizers(rng), [decoder])


def _grow(rng: random.Random, symbols: list[str], seeds: list[str]) -> tuple[list[str], list[list[str]]]:
    """Tokens joined of others, with the merges that make them, some out of order, and tokens that no merge makes."""
    grown, merges = list(dict.fromkeys(seed for seed in seeds if seed in set(symbols))), []
    seen = set(symbols)
    for _ in range(rng.randrange(60)):
        left, right = rng.choice(grown), rng.choice(grown)
        if len(left + right) > 8:
            continue
        merges.append([left, right])
        if left + right not in seen:
            grown.append(left + right)
            seen.add(left + right)
    if rng.random() < 0.3:
        rng.shuffle(merges)
    distinct = [list(pair) for pair in dict.fromkeys(map(tuple, merges))]
    unreachable = ["".join(rng.choices(grown, k=3)) for _ in range(rng.randrange(4))]
    return list(dict.fromkeys([*symbols, *grown, *unreachable])), distinct


def _numbered(rng: random.Random, tokens: list[str]) -> dict[str, int]:
    ids = list(range(len(tokens)))
    if rng.random() < 0.5:
        rng.shuffle(ids)
    return dict(zip(tokens, ids, strict=True))


def _split(rng: random.Random) -> Document:
    literal = rng.random() < 0.25
    pattern = (
        {"String": rng.choice((" ", "e", "▁", "th", "\n"))}
        if literal
        else {"Regex": rng.choice(_EXPRESSIONS)}
    )
    return {
        "type": "Split",
        "pattern": pattern,
        "behavior": rng.choice(_BEHAVIORS),
        "invert": rng.random() < 0.3,
    }


def _pre_tokenizers(rng: random.Random) -> list[Document]:
    choices: list[Document] = [
        {"type": "Whitespace"},
        {"type": "WhitespaceSplit"},
        {"type": "BertPreTokenizer"},
        {"type": "Punctuation", "behavior": rng.choice(_BEHAVIORS)},
        {"type": "Digits", "individual_digits": rng.random() < 0.5},
        {"type": "CharDelimiterSplit", "delimiter": rng.choice((" ", "e", "世"))},
        {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": rng.choice(("always", "first", "never")),
            "split": rng.random() < 0.7,
        },
        _split(rng),
    ]
    return rng.sample(choices, rng.choice((0, 1, 1, 1, 2, 3)))


def _normalizers(rng: random.Random, kinds: tuple[str, ...]) -> list[Document]:
    steps = []
    for kind in rng.sample(kinds, rng.choice((0, 0, 1, 1, 2))):
        step: Document = {"type": kind}
        if kind == "Replace":
            regex = rng.random() < 0.5
            pattern = (
                {"Regex": rng.choice((" {2,}", r"\s", "[eo]", "é?a"))}
                if regex
                else {"String": rng.choice((" ", "e", "``"))}
            )
            step |= {"pattern": pattern, "content": rng.choice(("▁", "", " ", "xy"))}
        if kind == "Strip":
            step |= {"strip_left": rng.random() < 0.5, "strip_right": rng.random() < 0.5}
        steps.append(step)
    return steps


def _sentencepiece_decoders(rng: random.Random) -> list[Document]:
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    steps: list[Document] = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if rng.random() < 0.5:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _document(
    rng: random.Random,
    model: Document,
    normalizers: list[Document],
    steps: list[Document],
    decoders: list[Document],
) -> Document:
    entries = model["vocab"]
    vocabulary = {entry[0]: i for i, entry in enumerate(entries)} if isinstance(entries, list) else entries
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(rng, vocabulary),
        "normalizer": _pipeline(normalizers, "normalizers"),
        "pre_tokenizer": _pipeline(steps, "pretokenizers"),
        "post_processor": None,
        "decoder": _pipeline(decoders, "decoders"),
        "model": model,
    }


def _pipeline(steps: list[Document], members: str) -> Document | None:
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", members: steps}


def _added_tokens(rng: random.Random, vocabulary: dict[str, int]) -> list[Document]:
    contents = rng.sample(
        ("<s>", "<x>", "<xy>", "e", " a", "世", "▁th", "\n\n", "<|end|>", "Ab", "fi"), rng.randrange(5)
    )
    added, next_id = [], len(vocabulary)
    for content in contents:
        flags = {
            flag: rng.random() < 0.3 for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        # A special token is one that text does not give, so none of the words that models give here.
        flags["special"] = flags["special"] and content not in vocabulary
        token_id = vocabulary.get(content, next_id)
        next_id += token_id == next_id
        added.append({"id": token_id, "content": content, **flags})
    return added
