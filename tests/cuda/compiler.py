"""What nvcc makes of the kernels, per kernel and architecture: registers, local memory, instructions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.assets import REPOSITORY

SOURCES = sorted((REPOSITORY / "csrc" / "ops").glob("*/cuda*.cu"))
ARCHITECTURES = ("sm_80",)
TABLE = Path(__file__).parent / "registers.json"
FLAGS = ("-std=c++20", "-O3", "-fmad=false", "--expt-relaxed-constexpr", "-I", str(REPOSITORY / "csrc"))


def nvcc() -> str | None:
    """Path of nvcc, None where there is none."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def compile_kernels(source: Path, architecture: str, cubin: Path) -> dict[str, dict[str, int]]:
    """Compiles `source` to `cubin`; {kernel by short name: {registers, stack, spills}} as ptxas reports them."""
    command = [
        str(nvcc()),
        *FLAGS,
        f"-arch={architecture}",
        "-Xptxas",
        "-v",
        "-cubin",
        "-o",
        str(cubin),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-4000:])
    kernels: dict[str, dict[str, int]] = {}
    name = ""
    for line in done.stderr.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)'", line):
            name = short_name(found[1])
            kernels[name] = {}
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            kernels[name] |= {"stack": int(found[1]), "spills": int(found[2]) + int(found[3])}
        elif found := re.search(r"Used (\d+) registers", line):
            kernels[name]["registers"] = int(found[1])
    return kernels


def short_name(mangled: str) -> str:
    """attention_forward<bfloat16, 64> of a mangled kernel."""
    text = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    text = re.sub(
        r"\(pyllm::swiglu::Activation\)(\d)", lambda m: ("silu", "gelu", "gelu_tanh")[int(m[1])], text
    )
    return re.sub(r"\w+::", "", text.removeprefix("void ").rpartition("(")[0])


def instructions(cubin: Path) -> dict[str, Counter[str]]:
    """{kernel: {opcode: count}} of a cubin's SASS, by cuobjdump."""
    tool = str(cuobjdump())  # nvdisasm, which it calls, lies beside it
    environment = {**os.environ, "PATH": os.pathsep.join((str(Path(tool).parent), os.environ["PATH"]))}
    command = [tool, "-sass", str(cubin)]
    dump = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    kernels: dict[str, Counter[str]] = {}
    counts: Counter[str] = Counter()
    for line in dump.stdout.splitlines():
        if found := re.search(r"Function : (\S+)", line):
            counts = kernels[short_name(found[1])] = Counter()
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", line):
            counts[found[1]] += 1
    return kernels


def cuobjdump() -> str | None:
    """Path of cuobjdump: on PATH, or where the package nvidia-cuda-cuobjdump puts it."""
    found = sorted(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/**/bin/cuobjdump"))
    return shutil.which("cuobjdump") or (str(found[0]) if found else None)


def main(folder: Path) -> None:
    """Writes the table of registers anew: `python -m tests.cuda.compiler FOLDER` (for cubins)."""
    table: dict[str, dict[str, int]] = {}
    for source in SOURCES:
        for architecture in ARCHITECTURES:
            cubin = folder / f"{source.parent.name}.{source.stem}.{architecture}.cubin"
            for kernel, facts in compile_kernels(source, architecture, cubin).items():
                table.setdefault(kernel, {})[architecture] = facts["registers"]
                if facts["stack"] or facts["spills"]:
                    print(f"{kernel} on {architecture}: {facts}")
    TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
