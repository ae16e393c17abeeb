"""What importing costs and needs: little time, no extras, and no torch for the tokenizer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

EXTRAS = [
    "matplotlib",
    "pytest",
    "pytest_benchmark",
    "hypothesis",
    "transformers",
    "tokenizers",
    "tiktoken",
    "gguf",
]
# Subclasses of transformers' own, imported by what found it installed.
NEED_EXTRAS = (
    "pyllm.integrations.transformers.gguf_quantizer",
    "pyllm.integrations.transformers.quantizers",
)
BUDGET = 1.5  # import torch, pyllm and its ops: at most this many times as long as import torch alone


def run(code: str, blocked: Sequence[str] = ()) -> str:
    """What a fresh process that runs `code` prints, with some packages looking as if not installed."""
    block = f"import sys; sys.modules.update(dict.fromkeys({list(blocked)!r}))\n"
    done = subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_time_budget() -> None:
    code = """
import time
start = time.process_time()
import torch
torch_only = time.process_time()
import pyllm
import pyllm.ops
print((time.process_time() - start) / (torch_only - start))
"""
    assert any(float(run(code)) <= BUDGET for _ in range(3))  # once is enough: other work can only slow it


def test_importing_pyllm_loads_nothing_heavy() -> None:
    loaded = run(
        "import sys, pyllm; print(sorted({'torch', 'numpy', 'rich', 'typer', 'jinja2'} & set(sys.modules)))"
    )
    assert loaded.strip() == "[]"


def test_every_module_and_public_name_imports_without_extras() -> None:
    code = f"""
import importlib, pkgutil, pyllm
found = (m.name for m in pkgutil.walk_packages(pyllm.__path__, "pyllm."))
left_out = ("__main__", "libpyllm_cpu", "libpyllm_cuda", *{NEED_EXTRAS})
names = [name for name in found if not name.endswith(left_out)]
for name in names:
    importlib.import_module(name)
missing = [name for name in pyllm.__all__ if not hasattr(pyllm, name)]
print(0 if missing else len(names))
"""
    assert int(run(code, EXTRAS)) > 50


def test_tokenizer_works_without_torch(tmp_path: object) -> None:
    code = f"""
import pyllm
tokenizer = pyllm.Tokenizer.train(["the cat and the hat " * 20], 280, special_tokens=["<|endoftext|>"])
tokenizer.save({str(tmp_path)!r} + "/tokenizer.json")
again = pyllm.Tokenizer.from_file({str(tmp_path)!r} + "/tokenizer.json")
ids = again.encode("the cat \\N{{SNOWMAN}}")
assert ids == tokenizer.encode("the cat \\N{{SNOWMAN}}")
print(again.decode(ids))
"""
    assert run(code, ["torch"]).strip() == "the cat \N{SNOWMAN}"


def test_tokenizer_commands_work_without_torch(tmp_path: object) -> None:
    code = f"""
from pyllm.cli import main
from pathlib import Path
Path({str(tmp_path)!r}, "text.txt").write_text("the cat and the hat " * 20)
folder = {str(tmp_path)!r}
assert main(["tokenizer", "train", "--data", folder + "/text.txt", "--vocab-size", "270", "--out", folder]) == 0
assert main(["tokenizer", "encode", "--tokenizer", folder, "--text", "the cat"]) == 0
assert main(["info"]) == 0
"""
    assert "not installed" in run(code, ["torch"])
