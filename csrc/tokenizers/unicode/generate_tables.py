"""Writes the Unicode tables of the pretokenizers and of the normalizers beside this file.

    pip install unicodedata2==16.0.0 tokenizers==0.23.3 regex==2026.11.15 && python generate_tables.py

Character classes follow Unicode 16.0, which tiktoken 0.14 and tokenizers 0.23 both use in their regular expressions.
Composition data follow the older Unicode 9.0 of the tokenizers normalizer, because ids must be equal to its ids: what
its NFC does not know yet is found by probing it, and left out. The tables behind BERT's normalizer and behind the
Digits, Punctuation, Lowercase and StripAccents steps are read off tokenizers for the same reason: each of those steps
has a Unicode version of its own. Grapheme clusters follow Unicode 17, as its Precompiled step does.
"""

from __future__ import annotations

from pathlib import Path

import regex
import unicodedata2 as unicodedata
from tokenizers.normalizers import NFC, NFD, NFKD, BertNormalizer, Lowercase, StripAccents
from tokenizers.pre_tokenizers import Digits, Punctuation

HERE = Path(__file__).parent
LINE_LENGTH = 110
# Numbers of `CharacterClass` in ../character_class.h.
OTHER, WORD, UPPER, LOWER, LETTER, MARK, DIGIT, NUMBER, SPACE, NEWLINE = range(10)
CLASS_OF_CATEGORY = {
    **dict.fromkeys(("Lu", "Lt"), UPPER),
    "Ll": LOWER,
    **dict.fromkeys(("Lm", "Lo"), LETTER),
    **dict.fromkeys(("Mn", "Mc", "Me"), MARK),
    **dict.fromkeys(("Nd", "Nl"), DIGIT),
    "No": NUMBER,
    **dict.fromkeys(("Zs", "Zl", "Zp"), SPACE),
    "Pc": WORD,
}
# Alphabetic symbols (Other_Alphabetic outside of L, M, N) and the two joiners are \w too.
WORD_RANGES = [(0x200C, 0x200D), (0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)]
SPACE_CONTROLS = {0x09, 0x0B, 0x0C, 0x85}
# Numbers of `Category` in ../general_category.h; the next bit says that the script is Han.
# fmt: off
CATEGORIES = [
    "Cn", "Cc", "Cf", "Co", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No",
    "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp",
]
# fmt: on
HAN = 32
# Bits of `TextProperty` in ../text_properties.h.
CONTROL, BERT_ACCENT, ACCENT, PUNCTUATION, NUMERIC = 1, 2, 4, 8, 16
# Numbers of `GraphemeBreak` in ../graphemes.cpp; the next bits stand beside them.
# fmt: off
GRAPHEME_BREAKS = [
    "Other", "CR", "LF", "Control", "Extend", "ZWJ", "Regional_Indicator", "Prepend", "SpacingMark",
    "L", "V", "T", "LV", "LVT",
]
# fmt: on
PICTOGRAPH, CONJUNCT_LINKER, CONJUNCT_CONSONANT, CONJUNCT_EXTEND = 16, 32, 64, 128


def code_points() -> list[int]:
    """Every Unicode scalar value."""
    return [*range(0xD800), *range(0xE000, 0x110000)]


def character_class(code_point: int) -> int:
    """The class of one code point; the classes are disjoint."""
    if code_point in (0x0A, 0x0D):
        return NEWLINE
    if code_point in SPACE_CONTROLS:
        return SPACE
    if any(first <= code_point <= last for first, last in WORD_RANGES):
        return WORD
    return CLASS_OF_CATEGORY.get(unicodedata.category(chr(code_point)), OTHER)


def canonical_decompositions() -> list[tuple[int, int, int, bool]]:
    """(composed, first, second or 0, whether NFC composes it again) for every character with a decomposition."""
    nfc = NFC()
    rows = []
    for code_point in code_points():
        fields = unicodedata.decomposition(chr(code_point)).split()
        if not fields or fields[0].startswith("<"):
            continue
        parts = [int(field, 16) for field in fields]
        text = "".join(map(chr, parts))
        composes = unicodedata.normalize("NFC", text) == chr(code_point)
        if composes and nfc.normalize_str(text) != chr(code_point):
            continue
        rows.append((code_point, parts[0], parts[1] if len(parts) == 2 else 0, composes))
    return rows


def combining_classes() -> list[tuple[int, int]]:
    """(code point, canonical combining class) where it is not zero and the normalizer knows it."""
    nfc = NFC()
    rows = []
    for code_point in code_points():
        combining = unicodedata.combining(chr(code_point))
        # A mark the normalizer does not know stands still between two marks that would otherwise move around it.
        probes = [f"a{chr(code_point)}\u0334", f"a\u0301{chr(code_point)}"]
        if combining and any(nfc.normalize_str(p) != p for p in probes):
            rows.append((code_point, combining))
    return rows


def unstable_characters(rows: list[tuple[int, int, int, bool]], combining: list[tuple[int, int]]) -> set[int]:
    """Characters that NFC may change or move; text without them is already in NFC."""
    changed = {composed for composed, _, _, composes in rows if not composes}
    second = {second for _, _, second, composes in rows if composes}
    jamo = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
    return changed | second | jamo | {code_point for code_point, _ in combining}


def runs(values: list[int]) -> list[tuple[int, int]]:
    """(first code point, value) of every run of equal values; surrogates continue the run before them."""
    result: list[tuple[int, int]] = []
    for code_point, value in zip(code_points(), values, strict=True):
        if not result or result[-1][1] != value:
            result.append((code_point, value))
    return result


def general_categories() -> list[int]:
    """Category and script of every code point, Unicode 16.0."""
    han = regex.compile(r"\p{Han}")
    numbers = {category: number for number, category in enumerate(CATEGORIES)}
    values = []
    for code_point in code_points():
        category = unicodedata.category(chr(code_point))
        is_han = category != "Cn" and han.match(chr(code_point)) is not None
        values.append(numbers[category] | (HAN if is_han else 0))
    return values


def text_properties() -> list[int]:
    """What the steps of tokenizers do to every code point, as bits."""
    off = {"handle_chinese_chars": False, "lowercase": False}
    clean = BertNormalizer(clean_text=True, strip_accents=False, **off)
    bert_accents = BertNormalizer(clean_text=False, strip_accents=True, **off)
    accents, punctuation, digits = StripAccents(), Punctuation(), Digits(individual_digits=True)
    values = []
    for code_point in code_points():
        character = chr(code_point)
        between = f"a{character}b"
        values.append(
            (CONTROL if clean.normalize_str(character) == "" else 0)
            | (BERT_ACCENT if bert_accents.normalize_str(character) == "" else 0)
            | (ACCENT if accents.normalize_str(character) == "" else 0)
            | (PUNCTUATION if len(punctuation.pre_tokenize_str(between)) == 3 else 0)
            | (NUMERIC if len(digits.pre_tokenize_str(between)) == 3 else 0)
        )
    return values


def lower_cases() -> list[tuple[int, int]]:
    """(code point, lower case) but for U+0130, the only one with two characters."""
    lower = Lowercase()
    pairs = [(code_point, lower.normalize_str(chr(code_point))) for code_point in code_points()]
    return [(c, ord(text)) for c, text in pairs if text != chr(c) and len(text) == 1]


def compatibility_decompositions() -> list[tuple[int, list[int]]]:
    """(code point, its NFKD) where that differs from its NFD, as the normalizer knows them."""
    nfd, nfkd = NFD(), NFKD()
    pairs = [(c, nfkd.normalize_str(chr(c))) for c in code_points()]
    return [(c, [ord(part) for part in text]) for c, text in pairs if text != nfd.normalize_str(chr(c))]


def grapheme_breaks() -> list[int]:
    """Grapheme_Cluster_Break of every code point, with the properties that emoji and conjuncts need as bits."""
    everything = "".join(map(chr, code_points()))
    values = dict.fromkeys(code_points(), 0)
    for number, name in enumerate(GRAPHEME_BREAKS[1:], start=1):
        for character in regex.findall(rf"\p{{Grapheme_Cluster_Break={name}}}", everything):
            values[ord(character)] |= number
    bits = {
        "Extended_Pictographic": PICTOGRAPH,
        "Indic_Conjunct_Break=Linker": CONJUNCT_LINKER,
        "Indic_Conjunct_Break=Consonant": CONJUNCT_CONSONANT,
        "Indic_Conjunct_Break=Extend": CONJUNCT_EXTEND,
    }
    for name, bit in bits.items():
        for character in regex.findall(rf"\p{{{name}}}", everything):
            values[ord(character)] |= bit
    return [values[c] for c in code_points()]


def write(name: str, comment: str, items: list[str]) -> None:
    """One .inc file: a comment, then the items, wrapped."""
    lines = [f"// {comment}", "// Generated by generate_tables.py; do not edit."]
    current = ""
    for item in items:
        if len(current) + len(item) + 2 > LINE_LENGTH:
            lines.append(current)
            current = ""
        current += f"{' ' if current else ''}{item},"
    (HERE / name).write_text("\n".join([*lines, current]) + "\n", encoding="ascii")


def main() -> None:
    """Writes the tables."""
    if unicodedata.unidata_version != "16.0.0":
        raise SystemExit(f"unicodedata2 16.0.0 is needed, got {unicodedata.unidata_version}")
    rows, combining = canonical_decompositions(), combining_classes()
    unstable = unstable_characters(rows, combining)
    classes = runs([character_class(c) | (16 if c in unstable else 0) for c in code_points()])
    write(
        "character_classes.inc",
        "First code point of each run << 8 | unstable under NFC << 4 | CharacterClass.",
        [f"0x{first << 8 | value:X}" for first, value in classes],
    )
    write(
        "canonical_decompositions.inc",
        "{composed, first, second (0: none), composes again}, sorted by composed.",
        [f"{{0x{c:X}, 0x{a:X}, 0x{b:X}, {int(k)}}}" for c, a, b, k in rows],
    )
    write(
        "combining_classes.inc",
        "Code point << 8 | canonical combining class, sorted, zero classes left out.",
        [f"0x{code_point << 8 | value:X}" for code_point, value in combining],
    )
    for name, comment, values in (
        ("general_categories.inc", "Han << 5 | Category.", general_categories()),
        ("text_properties.inc", "bits of TextProperty.", text_properties()),
        ("grapheme_breaks.inc", "Indic conjunct bits, pictograph bit, GraphemeBreak.", grapheme_breaks()),
    ):
        comment = f"First code point of each run << 8 | {comment}"
        write(name, comment, [f"0x{first << 8 | value:X}" for first, value in runs(values)])
    write(
        "lower_cases.inc",
        "{code point, lower case}, sorted by code point.",
        [f"{{0x{c:X}, 0x{lower:X}}}" for c, lower in lower_cases()],
    )
    write(
        "compatibility_decompositions.inc",
        "Code point, number of characters, characters; sorted by code point.",
        [
            ", ".join(f"0x{n:X}" for n in (c, len(parts), *parts))
            for c, parts in compatibility_decompositions()
        ],
    )


if __name__ == "__main__":
    main()
