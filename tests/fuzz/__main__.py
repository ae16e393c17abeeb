"""`python -m tests.fuzz [SECONDS] [--seed FIRST] [--target NAME ...]`: every case for its share of the time.

Each target runs in a process of its own, so that a crash or a hang is noticed and its seed told. With --seed alone, one
target's one case is repeated in this process.
"""

from __future__ import annotations

import argparse
import faulthandler
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.harness import FAILURES, run_case
from tests.fuzz.targets import CASES

_HANG_SECONDS = 120


def main() -> int:
    """Exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=0.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--target", action="append", choices=list(CASES))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.target or list(CASES)
    if arguments.child is not None:
        return _child(names[0], arguments.seconds, arguments.child)
    if arguments.seed is not None and not arguments.seconds:
        with tempfile.TemporaryDirectory() as folder:
            run_case(names[0], CASES[names[0]], arguments.seed, Path(folder) / "case")
        return 0
    first = time.time_ns() // 10**9 * 10**6 if arguments.seed is None else arguments.seed
    return max([_target(name, arguments.seconds / len(names), first) for name in names])


def _target(name: str, seconds: float, first: int) -> int:
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "tests.fuzz",
        str(seconds),
        "--target",
        name,
        "--child",
        str(first),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    words = done.stdout.split("\n")
    if done.returncode == 0:
        print(f"{name}: {words[-2]} cases from seed {first}, nothing found", flush=True)
        return 0
    print(f"{name}: FAILED with {done.returncode} after seed {words[0]}\n{done.stderr[-6000:]}", flush=True)
    return 1


def _child(name: str, seconds: float, first: int) -> int:
    """Prints how many cases there were; the seed of each is in a file, should the process die."""
    faulthandler.enable()
    current = FAILURES / f"{name}.seed"
    current.parent.mkdir(parents=True, exist_ok=True)
    case = CASES[name]
    count, end = 0, time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end or count == 0:
            faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
            current.write_text(str(first + count))
            run_case(name, case, first + count, Path(folder) / "case")
            count += 1
    faulthandler.cancel_dump_traceback_later()
    print(count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
