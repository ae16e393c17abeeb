"""Faults planted in the kernels must be noticed without a GPU: by an op's random cases, plain or sanitized.

Only the damaged kernels, and for a sanitizer the simulator beneath them, are compiled anew; everything else is
linked as the test of random cases built it.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.assets import REPOSITORY
from tests.cuda import simulated
from tests.cuda.mutations import FAULTS, Fault
from tests.native.sanitize import tool

pytestmark = pytest.mark.skipif(not simulated.can_build(), reason="cmake, ninja or c++ not installed")
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
MESSAGES = {
    "result": "off the reference",
    "simulator": "simulator: block|Segmentation|SIGSEGV",
    "address": "AddressSanitizer|runtime error",
    "thread": "ThreadSanitizer: data race",
}
CASES = {"address": "30", "thread": "12"}  # of others 60
FAST = ("adamw:i < t.count; ++i)",)  # others, and the sanitized simulator, take longer to compile


def name_of(fault: Fault) -> str:
    return f"{fault.op}:{fault.old.strip()[:40]}"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name_of(fault), marks=[] if name_of(fault) in FAST else pytest.mark.slow)
        for fault in FAULTS
    ],
)
def test_fault_is_noticed(fault: Fault, tmp_path: Path) -> None:
    sanitizer = SANITIZERS.get(fault.catcher, "")
    program = compile_with(fault, sanitizer, tmp_path)
    done = subprocess.run(
        [str(program), CASES.get(fault.catcher, "60"), "1", fault.op], capture_output=True, text=True
    )
    assert done.returncode != 0, "not noticed"
    report = done.stdout + done.stderr + (" Segmentation fault" if done.returncode == -11 else "")
    assert re.search(MESSAGES[fault.catcher], report), report[-2000:]


@functools.cache
def objects_of(target: str, kind: str, *options: str) -> list[Path]:
    """What a target of the simulator is made of."""
    folder = simulated.build(simulated.FOLDER / kind, target, *options)
    return list(folder.glob(f"**/{target}.dir/**/*.o"))


def compile_with(fault: Fault, sanitizer: str, place: Path) -> Path:
    """The test program with one source of kernels replaced by a damaged one."""
    for part in ("core", f"ops/{Path(fault.source).parent}"):
        shutil.copytree(REPOSITORY / "csrc" / part, place / part)
    damaged = place / fault.file
    text = damaged.read_text()
    assert fault.old in text, f"{fault.file} has no {fault.old!r} any more"
    damaged.write_text(text.replace(fault.old, fault.new, 1))
    objects = objects_of("simulated_tests", "plain")
    if sanitizer:
        options = [f"-DPYLLM_SANITIZE={sanitizer}"]
        objects = objects + objects_of("simulator_runtime", fault.catcher, *options)
    else:
        objects = objects + objects_of("simulator_runtime", "plain")
    objects = [path for path in objects if not str(path).endswith(f"ops/{fault.source}.cu.o")]
    compiler = [str(tool("c++")), "-std=c++20", "-O1", "-ffp-contract=off", "-fno-omit-frame-pointer"]
    if sanitizer:
        compiler += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    includes = [f"-I{path}" for path in (place, REPOSITORY / "csrc", REPOSITORY / "tests" / "cuda")]
    source, compiled, program = (
        place / "ops" / f"{fault.source}.cu",
        place / "kernels.o",
        place / "simulated_tests",
    )
    # The damaged object comes first, so that its copies of what headers define are those that are linked.
    for command in (
        [*compiler, "-Wno-unknown-pragmas", *includes, "-xc++", "-c", str(source), "-o", str(compiled)],
        [*compiler, str(compiled), *map(str, objects), "-o", str(program), "-lpthread"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    return program
