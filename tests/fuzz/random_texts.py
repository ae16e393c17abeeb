"""Random texts: Unicode of every plane, what tokenizers treat differently, words of a vocabulary, stray bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence

# Spaces of all widths, line ends, apostrophes, marks, digits of several kinds, letters that change under normalization
# or case, title case, scripts without spaces, joined emoji, control and private characters, other people's markers.
TROUBLE = (
    *" \t\n\r\v\f'’/.!?aAsStTdDmMlLvVeErR019ſßǅʰª語ﾞ²½Ⅷ٣é①ﬁ㍻ｱİIıΣςＡ世界の한กำ🤗",
    *"\u0301\u0323\u0345\u093c\u200b\u200c\u200d",
    *(
        "\x00",
        "\x1c",
        "\x7f",
        "\x85",
        "\xa0",
        "\xad",
        "\u0604",
        "\u115f",
        "\u1680",
        "\u180e",
        "\u2028",
        "\u2029",
        "\u2060",
    ),
    *(
        "\u3000",
        "\ufeff",
        "\ufffc",
        "\ufffd",
        "\uffff",
        "\U000e0041",
        "\U000f0000",
        "\U0010fffd",
        "\u1e9e",
        "\u0130",
    ),
    *(
        "  ",
        "   ",
        "\r\n",
        "\n\n",
        "'ll",
        "'S",
        "'ſ",
        "e\u0301",
        "각",
        "\u1100\u1161\u11a8",
        "👩\u200d👧",
        "🇩🇪",
    ),
    *(
        "▁",
        "▁▁",
        "Ġ",
        "##",
        "##a",
        "<0x41>",
        "<0x0A>",
        "[UNK]",
        "<unk>",
        "</s>",
        "<s>",
        "<|endoftext|>",
        "\ufe0f",
        "\u0e33",
    ),
)


def random_text(rng: random.Random, length: int, words: Sequence[str] = ()) -> str:
    """At most `length` parts."""
    parts: list[str] = []
    style = rng.randrange(6)
    for _ in range(rng.randrange(length + 1)):
        match rng.randrange(5) if style else rng.randrange(2):
            case 0:
                parts.append(rng.choice(TROUBLE))
            case 1:
                parts.append(random_character(rng))
            case 2 if words:
                parts.append(rng.choice(words))
            case 3:
                parts.append(rng.choice(TROUBLE) * rng.choice((1, 2, 3, 17)))
            case _:
                parts.append("".join(rng.choices("abcdeot ,.'", k=rng.randrange(1, 8))))
    return "".join(parts)


def random_character(rng: random.Random) -> str:
    """Any character but a surrogate; half of them from the first plane's start."""
    while True:
        code = rng.randrange(rng.choice((0x80, 0x800, 0x3100, 0x10000, 0x20000, 0x110000)))
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def random_bytes(rng: random.Random, length: int) -> bytes:
    """Text with bytes that are not UTF-8: cut characters, stray bytes, forbidden lead bytes, encoded surrogates."""
    parts = []
    for _ in range(rng.randrange(length + 1)):
        character = random_character(rng).encode()
        match rng.randrange(4):
            case 0:
                parts.append(character[: rng.randrange(len(character) + 1)])
            case 1:
                parts.append(rng.randbytes(rng.randrange(1, 4)))
            case 2:
                parts.append(
                    rng.choice(
                        (
                            b"\xff",
                            b"\xf5\x80\x80\x80",
                            b"\xed\xa0\x80",
                            b"\xc0\xaf",
                            b"\xf4\x90\x80\x80",
                            b"\x80",
                        )
                    )
                )
            case _:
                parts.append(rng.choice(TROUBLE).encode() + character)
    return b"".join(parts)
