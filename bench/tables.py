"""docs/benchmarks.md from saved results: `python -m pyllm.bench.tables bench/results/*.json > docs/benchmarks.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .case import OURS
from .report import NOT_AVAILABLE, Row, from_json, rival_names
from .roofline import MEMORY, UNITS, Roofline

_INTRODUCTION = """\
# Benchmarks

Generated from the JSON in `bench/results` by `make bench`, which measures all ops on the machine at hand; `make bench
ISA=avx2` holds everybody to a lower level. `pyllm bench` alone takes a few minutes.

All contenders of a row run in one process, in interleaved rounds, with the same threads and the same tuned allocator;
compilation is not timed. A time is the median over rounds (of several runs: the median of their medians), with the
widest quartiles in brackets. **x** says how many times faster pyllm is: below 1, in bold, it is slower. *of roof* is
the least time that the machine allows over ours, *rate* what that is in bytes or operations per second; the roofs are
measured in the same run by loops that do nothing else. Above 100 % the data came from a cache. Masked pairs do not
count as operations.
"""
_NOTHING = "\nNo results are kept yet.\n"


def document(results: dict[str, dict[str, Any]]) -> str:
    """The page; `results` are file name (without suffix) -> what `report.as_json` made."""
    sections = [_section(name, saved) for name, saved in results.items()]
    return _INTRODUCTION + ("".join(sections) or _NOTHING)


def _section(name: str, saved: dict[str, Any]) -> str:
    rows, roofline = from_json(saved)
    lines = [
        "",
        f"## {name}",
        "",
        *_conditions(saved["conditions"], roofline),
        "",
        *_roofs(roofline),
        "",
        *_losses(rows),
    ]
    for op in dict.fromkeys(row.op for row in rows):
        lines += ["", f"### {name}: {op}", "", *_op_table([row for row in rows if row.op == op], roofline)]
    lines += ["", *_absences(rows)]
    return "\n".join(lines).rstrip() + "\n"


def _conditions(conditions: dict[str, Any], roofline: Roofline) -> Iterator[str]:
    facts = conditions["pyllm"]
    yield f"- {conditions['cpu']}, {facts['cpus']} CPUs, {facts['platform']}; level {facts['machine_isa']}"
    extensions = ", ".join(facts["extensions"]) or "none"
    yield f"- measured at level {roofline.isa} with {roofline.all.threads} threads; extensions: {extensions}"
    yield f"- pyllm {facts['pyllm']}, PyTorch {facts['torch']}, Python {facts['python']}"
    caps = ", ".join(f"`{name}={value}`" for name, value in conditions["caps"].items()) or "none"
    yield f"- caps on every contender: {caps}"
    allocator = ", ".join(conditions["allocator"]["applied"]) or "glibc's defaults"
    yield f"- allocator: {allocator}; runs: {conditions['runs']}; {'all' if conditions['full'] else 'quick'} shapes"


def _roofs(roofline: Roofline) -> Iterator[str]:
    columns = (roofline.single, roofline.all)
    yield "| roof | " + " | ".join(f"{peaks.threads} threads" for peaks in columns) + " |"
    yield "|---|---:|---:|"
    for name in ("read", "copy"):
        yield (
            f"| {name} | " + " | ".join(f"{getattr(peaks, name) / 1e9:.1f} GB/s" for peaks in columns) + " |"
        )
    for unit in UNITS:
        rates = (peaks.operations.get(unit) for peaks in columns)
        cells = ("absent" if rate is None else f"{rate / 1e9:,.0f} Gop/s" for rate in rates)
        yield f"| {unit} | " + " | ".join(cells) + " |"


def _losses(rows: Sequence[Row]) -> Iterator[str]:
    """Every pair of row and rival in which the rival is faster, the worst first."""
    pairs = [(row.speedup(rival), row, rival) for row in rows for rival in row.timings if rival != OURS]
    lost = sorted((pair for pair in pairs if pair[0] < 1), key=lambda pair: pair[0])
    yield f"Slower than a rival in {len(lost)} of {len(pairs)} comparisons" + (":\n" if lost else ".")
    for speedup, row, rival in lost:
        yield f"- {speedup:.2f}x {rival}: {row.op}, {row.case}, {row.direction}"


def _op_table(rows: Sequence[Row], roofline: Roofline) -> Iterator[str]:
    rivals = rival_names(rows)
    headings = ["case", "pass", f"{OURS} ms", *(f"{rival} ms, x" for rival in rivals), "rate", "of roof"]
    yield "| " + " | ".join(headings) + " |"
    yield "|---|---|" + "---:|" * (len(headings) - 2)
    for row in rows:
        cells = [row.case, row.direction, _time(row, OURS), *(_rival(row, rival) for rival in rivals)]
        yield "| " + " | ".join([*cells, _rate(row, roofline), f"{row.share_of_roof:.0%} {row.roof}"]) + " |"


def _time(row: Row, contender: str) -> str:
    timing = row.timings[contender]
    return f"{timing.median * 1e3:.3f} [{timing.lower * 1e3:.3f}, {timing.upper * 1e3:.3f}]"


def _rival(row: Row, rival: str) -> str:
    if rival in row.unavailable:
        return NOT_AVAILABLE
    if rival not in row.timings:
        return "-"
    speedup = f"{row.speedup(rival):.2f}x"
    return f"{_time(row, rival)}, {speedup if row.speedup(rival) >= 1 else f'**{speedup}**'}"


def _rate(row: Row, roofline: Roofline) -> str:
    unit = "GB/s" if row.roof == MEMORY else "Gop/s"
    return f"{row.share_of_roof * roofline.rate(row.roof) / 1e9:.1f} {unit}"


def _absences(rows: Sequence[Row]) -> Iterator[str]:
    """Why rivals are missing, each reason once."""
    reasons = dict.fromkeys((rival, why) for row in rows for rival, why in row.unavailable.items())
    for rival, why in reasons:
        yield f"- {rival} {NOT_AVAILABLE}: {why}"


if __name__ == "__main__":
    paths = sorted(map(Path, sys.argv[1:]))
    print(document({path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}), end="")
