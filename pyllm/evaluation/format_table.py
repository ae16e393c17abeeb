"""What was measured of a model in many formats: kept as JSON, shown as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyllm.checkpoints.atomic import atomic_path

Row = dict[str, Any]
_HEADER = (
    "| format | MB | perplexity | mean KL, nats | same top token | prefill, tokens/s | decode, tokens/s |"
)


def merged(path: Path, model: str, rows: Mapping[str, Row], conditions: Row) -> dict[str, Any]:
    """The results in `path` (empty if there is no such file) with these rows added, written back.

    Args:
        rows: format -> what was measured; a row keeps what is not measured anew.
        conditions: of this measurement, kept beside the rows.
    """
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    section = saved.setdefault(model, {"conditions": {}, "rows": {}})
    section["conditions"] |= conditions
    for format, row in rows.items():
        section["rows"].setdefault(format, {}).update(row)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    return saved


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
