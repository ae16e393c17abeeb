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


# First and last character of what a text of one script, or of one kind of symbol, is made of.
SCRIPTS = {
    "Hebrew": (0x590, 0x5FF),
    "Arabic": (0x600, 0x6FF),
    "Arabic forms": (0xFB50, 0xFDFF),
    "Devanagari": (0x900, 0x97F),
    "Bengali": (0x980, 0x9FF),
    "Tamil": (0xB80, 0xBFF),
    "Thai": (0xE00, 0xE7F),
    "Tibetan": (0xF00, 0xFFF),
    "Myanmar": (0x1000, 0x109F),
    "Georgian": (0x10A0, 0x10FF),
    "Georgian capitals": (0x1C90, 0x1CBF),
    "Hangul jamo": (0x1100, 0x11FF),
    "more Hangul jamo": (0xD7B0, 0xD7FF),
    "Hangul": (0xAC00, 0xAD00),
    "Ethiopic": (0x1200, 0x137F),
    "Cherokee": (0x13A0, 0x13FF),
    "small Cherokee": (0xAB70, 0xABBF),
    "Khmer": (0x1780, 0x17FF),
    "Mongolian": (0x1800, 0x18AF),
    "Vedic": (0x1CD0, 0x1CFF),
    "Greek extended": (0x1F00, 0x1FFF),
    "directions": (0x200B, 0x206F),
    "super- and subscripts": (0x2070, 0x209F),
    "enclosed": (0x2460, 0x24FF),
    "radicals": (0x2E80, 0x2FDF),
    "kana": (0x3040, 0x30FF),
    "compatibility ideographs": (0xF900, 0xFAFF),
    "full and half width": (0xFF00, 0xFFEF),
    "private use": (0xE000, 0xE0FF),
    "noncharacters": (0xFDD0, 0xFDEF),
    "variation selectors": (0xFE00, 0xFE2F),
    "Kaithi": (0x11080, 0x110CF),
    "cuneiform": (0x12000, 0x120FF),
    "musical": (0x1D100, 0x1D1FF),
    "mathematical letters": (0x1D400, 0x1D4FF),
    "Adlam": (0x1E900, 0x1E95F),
    "emoji": (0x1F300, 0x1FAFF),
    "regional indicators": (0x1F1E6, 0x1F1FF),
    "ideographs of plane 2": (0x20000, 0x200FF),
    "tags": (0xE0020, 0xE007F),
}
_BETWEEN = (
    " ",
    " ",
    "\n",
    "\u200d",
    "\ufe0f",
    "\u200c",
    "\u0301",
    "\U0001f3fd",
    ".",
    "1",
    "a",
    "\u200f",
    "\u3000",
)


def script_text(rng: random.Random, length: int, script: str | None = None) -> str:
    """Words of one script, with joiners, marks, spaces and some of another script between them."""
    first, last = SCRIPTS[script or rng.choice(list(SCRIPTS))]
    parts = []
    for _ in range(rng.randrange(length + 1)):
        parts += [chr(rng.randint(first, last)) for _ in range(rng.randrange(1, 7))]
        parts += rng.choices(_BETWEEN, k=rng.randrange(3))
        if rng.random() < 0.1:
            parts.append(chr(rng.randint(*SCRIPTS[rng.choice(list(SCRIPTS))])))
    return "".join(parts)


def random_text(rng: random.Random, length: int, words: Sequence[str] = ()) -> str:
    """At most `length` parts."""
    if rng.random() < 0.2:
        return script_text(rng, length)
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


def mutate_text(rng: random.Random, text: str) -> str:
    """`text` with one to eight wounds: characters put in, parts lost, doubled or moved, cases changed, lines joined."""
    for _ in range(rng.choice((1, 2, 4, 8))):
        at = rng.randrange(len(text) + 1)
        part = text[at : at + rng.randrange(1, 24)]
        rest = text[at + len(part) :]
        match rng.randrange(7):
            case 0:
                text = text[:at] + rng.choice(TROUBLE) + text[at:]
            case 1:
                text = text[:at] + random_character(rng) * rng.choice((1, 1, 3, 40)) + rest
            case 2:
                text = text[:at] + rest
            case 3:
                text = text[:at] + part * rng.choice((2, 3, 20)) + rest
            case 4:
                text = part + text[:at] + rest
            case 5:
                text = text[:at] + part.swapcase() + rest
            case _:
                text = text[:at] + part.replace("\n", "").replace(" ", "") + rest
    return text
