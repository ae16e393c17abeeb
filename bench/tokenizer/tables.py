"""docs/tokenizer_benchmarks.md from saved results: `python -m pyllm.bench.tokenizer.tables results/*.json > ...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .contenders import OURS
from .report import Row, absences, from_json, mark_of_absence, rival_names

_INTRODUCTION = """\
# Tokenizer benchmarks

Generated from the JSON in `bench/results/tokenizer` by `make bench-tokenizer`, which measures on the machine at hand;
`pyllm bench tokenizer` alone takes a few minutes.

MB of text per second (load: seconds), single thread where the task does not say otherwise, all contenders of a row in
one process and in interleaved rounds; first calls have a process each. Everybody's ids are compared with tiktoken's,
sentencepiece's or tokenizers' before anything is timed. A speed is of the median over rounds (of several runs: the
median of their medians), with those of the quartiles in brackets. **x** says how many times faster pyllm is: below 1,
in bold, it is slower. Each library is called by its quickest way: ids as an array where it has one.

What was tried and why rows are lost is in [tokenizers.md](tokenizers.md#speed-of-byte-level-bpe).
"""
_NOTHING = "\nNo results are kept yet.\n"


def document(results: dict[str, dict[str, Any]]) -> str:
    """The page; `results` are file name (without suffix) -> what `report.as_json` made."""
    return _INTRODUCTION + ("".join(_section(name, saved) for name, saved in results.items()) or _NOTHING)


def _section(name: str, saved: dict[str, Any]) -> str:
    rows = from_json(saved)
    lines = ["", f"## {name}", "", *_conditions(saved["conditions"]), "", *_losses(rows)]
    for task in dict.fromkeys(row.task for row in rows):
        lines += ["", f"### {name}: {task}", "", *_task_table([row for row in rows if row.task == task])]
    lines += ["", *(f"- {reason}" for reason in absences(rows))]
    return "\n".join(lines).rstrip() + "\n"


def _conditions(conditions: dict[str, Any]) -> Iterator[str]:
    facts = conditions["pyllm"]
    yield f"- {conditions['cpu']}, {facts['cpus']} CPUs, {facts['platform']}; level {facts['active_isa']}"
    installed = [f"{name} {found}" for name, found in conditions["packages"].items() if found]
    yield f"- pyllm {facts['pyllm']}, Python {conditions['python']}; {', '.join(installed)}"
    yield f"- runs: {conditions['runs']}; {'all' if conditions['full'] else 'quick'} cases"


def _losses(rows: Sequence[Row]) -> Iterator[str]:
    """Every pair of row and rival in which the rival is faster, the worst first."""
    pairs = [(row.speedup(rival), row, rival) for row in rows for rival in row.timings if rival != OURS]
    lost = sorted((pair for pair in pairs if pair[0] < 1), key=lambda pair: pair[0])
    yield f"Slower than a rival in {len(lost)} of {len(pairs)} comparisons" + (":\n" if lost else ".")
    for speedup, row, rival in lost:
        yield f"- {speedup:.2f}x {rival}: {row.task}, {row.case}"


def _task_table(rows: Sequence[Row]) -> Iterator[str]:
    rivals = rival_names(rows)
    yield "| " + " | ".join(["case", OURS, *(f"{rival}, x" for rival in rivals)]) + " |"
    yield "|---|" + "---:|" * (len(rivals) + 1)
    for row in rows:
        cells = [row.case, _speed(row, OURS), *(_rival(row, rival) for rival in rivals)]
        yield "| " + " | ".join(cells) + " |"


def _speed(row: Row, contender: str) -> str:
    timing = row.timings[contender]
    return f"{row.speed(contender)} [{row.speed_of(timing.upper)}, {row.speed_of(timing.lower)}]"


def _rival(row: Row, rival: str) -> str:
    if rival not in row.timings:
        return mark_of_absence(row, rival)
    speedup = f"{row.speedup(rival):.2f}x"
    return f"{_speed(row, rival)}, {speedup if row.speedup(rival) >= 1 else f'**{speedup}**'}"


if __name__ == "__main__":
    paths = sorted(map(Path, sys.argv[1:]))
    print(document({path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}), end="")
