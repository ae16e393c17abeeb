"""What was measured of a model in many formats: kept as JSON, shown as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyllm.checkpoints.atomic import atomic_path

Row = dict[str, Any]
_HEADER = (
    "| format | MB | perplexity | mean KL, nats | same top token | prefill, tokens/s | decode, tokens/s |"
)


class Results:
    """What is known of one model, in a file that holds others too and is written anew with every row.

    Args:
        path: the file; there may be none yet.
        conditions: name -> how it is measured now.

    Raises:
        ValueError: rows in the file were measured under other conditions of the same name.
    """

    def __init__(self, path: Path, model: str, conditions: Mapping[str, str]) -> None:
        self._path = path
        self._saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.section = self._saved.setdefault(model, {"conditions": {}, "rows": {}})
        known = self.section["conditions"]
        for name, condition in conditions.items():
            if known.get(name, condition) != condition:
                raise ValueError(f"{path} holds results of {name} {known[name]!r}, not of {condition!r}")
        self._conditions = conditions

    def holds(self, format: str, keys: Iterable[str]) -> bool:
        """Whether all of `keys` were measured of a format."""
        return set(keys) <= self.section["rows"].get(format, {}).keys()

    def add(self, format: str, row: Row) -> None:
        """Writes a row; what it does not have anew stays."""
        self.section["conditions"] |= self._conditions
        self.section["rows"].setdefault(format, {}).update(row)
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self._saved, indent=1) + "\n", encoding="utf-8")


def markdown(section: Mapping[str, Any]) -> str:
    """The table of one model, rows by divergence, with the conditions above it."""
    rows = sorted(section["rows"].items(), key=lambda item: item[1].get("mean_kl", float("inf")))
    facts = "; ".join(f"{name} {value}" for name, value in section["conditions"].items())
    lines = [facts, "", _HEADER, "|" + " --- |" * _HEADER.count(" |")]
    for format, row in rows:
        lines.append(f"| {format} | " + " | ".join(_cells(row)) + " |")
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    def number(key: str, form: str, scale: float = 1.0) -> str:
        return format(row[key] * scale, form) if row.get(key) is not None else ""

    return [
        number("bytes", ".1f", 1e-6),
        f"{row['perplexity']:.3f}" if "perplexity" in row else "",
        f"{row['mean_kl']:.5f} ± {row['kl_error']:.5f}" if "mean_kl" in row else "",
        f"{number('top1_agreement', '.1f', 100)} %" if "top1_agreement" in row else "",
        number("prefill", ".0f"),
        number("decode", ".1f"),
    ]


def update_page(page: Path, model: str, section: Mapping[str, Any]) -> None:
    """Replaces what stands between `<!-- formats MODEL -->` and `<!-- end -->` in a Markdown page.

    Raises:
        ValueError: the page has no such place.
    """
    begin, end = f"<!-- formats {model} -->\n", "<!-- end -->"
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no place between {begin.strip()!r} and {end!r}")
    with atomic_path(page) as temporary:
        temporary.write_text(f"{before}{begin}{markdown(section)}\n{end}{after}", encoding="utf-8")
