"""Reading and writing the small files of a tokenizer."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")
# What a 64-bit significand holds, and the powers of ten that are one factor.
_LARGEST_SIGNIFICAND = (1 << 64) - 1
_SAFE_DIGITS, _LARGEST_POWER = 19, 300


def read_json(path: Path, parse_float: Callable[[str], float] = float) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError, naming the file, for anything else."""
    try:
        document = json.loads(path.read_bytes(), parse_float=parse_float)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(document).__name__}")
    return document


def parse_float_in_two_roundings(text: str) -> float:
    """A decimal number as tokenizers reads it: the digits rounded to a float, then scaled by a power of ten.

    The last bit may differ from the nearest float. Where the scores of a Unigram model make a tie, it decides.
    """
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    power = int(exponent or 0)
    negative, digits = whole.startswith("-"), whole.lstrip("-")
    if len(digits) > _SAFE_DIGITS or abs(power) > _LARGEST_POWER - len(fraction):
        return float(text)
    kept = fraction
    while int(digits + kept) > _LARGEST_SIGNIFICAND:
        kept = kept[:-1]
    value, power = float(int(digits + kept)), power - len(kept)
    scale = float(f"1e{abs(power)}")
    value = value * scale if power >= 0 else value / scale
    return -value if negative else value


def write_atomically(path: Path, text: str) -> None:
    """Writes a UTF-8 file under a temporary name and renames it, so that no reader meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(unfinished, 0o666 & ~mask)
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def expect(value: Any, kind: type[_T] | tuple[type[_T], ...], what: str) -> _T:
    """`value`, if it is of that type. Raises ValueError, naming `what`."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{what}: expected {names}, got {type(value).__name__}")
    return value
