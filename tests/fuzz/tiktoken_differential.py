"""Our ids, bytes and offsets beside tiktoken's: OpenAI's vocabularies and random small ones, sound and broken texts."""

from __future__ import annotations

import base64
import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyllm import Tokenizer
from pyllm.tokenizers.patterns import GPT2, LLAMA3, O200K, QWEN2
from tests.assets import REPOSITORY, roots
from tests.fuzz.harness import Case
from tests.fuzz.random_texts import mutate_text, random_bytes, random_text
from tests.fuzz.tokenizer_files import exercise
from tests.tokenizers.oracles import TIKTOKEN_FILES, openai, ours

_SPECIAL = {"<|endoftext|>": 0, "<x>": 1, "<xy>": 2}
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
# What .tiktoken files are given by name, as tiktoken spells it.
_NAMED = {"gpt2": GPT2, "gpt4": _CL100K, "o200k": O200K, "llama3": LLAMA3, "qwen2": QWEN2, "none": r"[\s\S]+"}
# For tekken.json, which holds any expression.
_ALTERNATIVES = (
    *(r"\p{L}+", r"\p{N}{1,3}", r"\d", r"[A-Z]?[a-z]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s+(?!\S)", r"\p{P}"),
    *(
        r"[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+",
        r"a|ab|b+?",
        r"ab?c*",
        r"[\p{L}\p{M}\p{N}_]{2,5}",
        r"[^ ]+? ",
    ),
    *(r"[a-z&&[^b]]{2,5}", r"\s*[\r\n]+", r"[一-龥]+", r" ?\p{L}+(?!\p{L})", r"(?:ab|th)+e?"),
)
_REST = (r"\s+|\S", r"\S+|\s", r"[\s\S]")  # so that no text is left over, which tiktoken would drop


def _openai(rng: random.Random, folder: Path) -> None:
    """gpt2, cl100k or o200k."""
    name = rng.choice(list(TIKTOKEN_FILES))
    for _ in range(4):
        _compare(ours(name), openai(name), _text(rng, folder, ["<|endoftext|>", "the"]), rng)


def _named_pattern(rng: random.Random, folder: Path) -> None:
    """A random .tiktoken file with the pattern of one of the known grammars."""
    ranks = _random_ranks(rng)
    name = rng.choice(list(_NAMED))
    special = {content: len(ranks) + i for content, i in _SPECIAL.items()}
    path = folder / "x.tiktoken"
    path.write_bytes(b"\n".join(base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items()))
    mine = Tokenizer.from_file(path, pattern=name, special_tokens=special)
    _compare_some(mine, _encoding(_NAMED[name], ranks, special), rng, folder)


def _random_pattern(rng: random.Random, folder: Path) -> None:
    """A random tekken.json with a random expression."""
    count = len(_SPECIAL)
    ranks = _random_ranks(rng)
    expression = "|".join([*rng.sample(_ALTERNATIVES, rng.randrange(4)), rng.choice(_REST)])
    entries = sorted(ranks.items(), key=lambda entry: entry[1])
    document = {
        "config": {
            "pattern": expression,
            "default_vocab_size": count + len(ranks),
            "default_num_special_tokens": count,
        },
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for token, rank in entries],
        "special_tokens": [{"rank": i, "token_str": content} for content, i in _SPECIAL.items()],
    }
    path = folder / "tekken.json"
    path.write_text(json.dumps(document))
    shifted = {token: count + rank for token, rank in ranks.items()}
    _compare_some(Tokenizer.from_file(path), _encoding(expression, shifted, _SPECIAL), rng, folder)


def _encoding(expression: str, ranks: dict[bytes, int], special: dict[str, int]) -> Any:
    import tiktoken

    return tiktoken.Encoding(
        "random", pat_str=expression, mergeable_ranks=ranks, special_tokens=dict(special)
    )


def _random_ranks(rng: random.Random) -> dict[bytes, int]:
    """All bytes, tokens joined of others, and some that no merges lead to; in half of them merges come too early."""
    tokens = [bytes([byte]) for byte in range(256)]
    grown = [letter.encode() for letter in "abcdeothn ,.'\n01AB"] + ["é".encode(), "世".encode()]
    for _ in range(rng.choice((0, 5, 40, 300))):
        joined = rng.choice(grown) + rng.choice(grown)
        if len(joined) <= rng.choice((4, 8, 40)):
            grown.append(joined)
    grown += [b"".join(rng.choices(grown, k=3)) for _ in range(rng.randrange(4))]
    tokens = list(dict.fromkeys([*tokens, *(bytes("é世"[i], "utf-8")[:2] for i in range(2)), *grown]))
    if rng.random() < 0.5:
        rng.shuffle(tokens)
    return {token: rank for rank, token in enumerate(tokens)}


@lru_cache
def _sound_texts() -> list[str]:
    """To be damaged: prose, tables and code."""
    folders = ("docs/*.md", "pyllm/tokenizers/*.py", "csrc/tokenizers/t*.cpp")
    return [
        path.read_text(encoding="utf-8") for folder in folders for path in sorted(REPOSITORY.glob(folder))
    ]


def _text(rng: random.Random, folder: Path, words: list[str]) -> str:
    match rng.randrange(4):
        case 0:
            source = rng.choice(_sound_texts())
            at = rng.randrange(len(source))
            text = mutate_text(rng, source[at : at + rng.randrange(3000)])
        case 1:  # pieces longer than what is merged at once
            text = "".join(
                rng.choices(rng.choice(("ab", "the ", "é世", "aA", " \n", "a世")), k=rng.randrange(600))
            )
        case _:
            text = random_text(rng, 40, words)
    (folder / "text.txt").write_text(text, newline="", errors="surrogatepass")
    return text


def _compare_some(mine: Tokenizer, theirs: Any, rng: random.Random, folder: Path) -> None:
    for _ in range(6):
        _compare(mine, theirs, _text(rng, folder, [*_SPECIAL, "a", "the"]), rng)


def _compare(mine: Tokenizer, theirs: Any, text: str, rng: random.Random) -> None:
    _same(mine.encode_ordinary(text), theirs.encode_ordinary(text), f"ordinary {text!r}")
    ids = theirs.encode(text, allowed_special="all")
    _same(mine.encode(text, allowed_special="all"), ids, repr(text))
    _same(mine.decode_bytes(ids), theirs.decode_bytes(ids), f"bytes of {ids}")
    _same(mine.decode_with_offsets(ids), theirs.decode_with_offsets(ids), f"offsets of {ids}")
    exercise(mine, text)
    piece = random_bytes(rng, 12)
    if piece:
        _same(mine.encode_piece(piece), theirs._encode_single_piece(piece), f"piece {piece!r}")
    broken = text[: len(text) // 2] + chr(rng.randrange(0xD800, 0xE000)) + text[len(text) // 2 :]
    _same(mine.encode_ordinary(broken), theirs.encode_ordinary(broken), f"surrogate in {broken!r}")


def _same(answer: Any, expected: Any, what: str) -> None:
    assert answer == expected, f"{what}: {answer} instead of {expected}"


CASES: dict[str, Case] = {"tiktoken-ranks": _named_pattern, "tiktoken-expressions": _random_pattern}
if all(
    any((root / f"gpt-tokenizer/data/{file}.tiktoken").is_file() for root in roots())
    for file in TIKTOKEN_FILES.values()
):
    CASES["tiktoken-openai"] = _openai
