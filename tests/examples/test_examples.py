"""The scripts of examples/ run at small size and say what they promise."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.assets import REPOSITORY, asset
from tests.conftest import SMOLLM2

# Packages it needs, and what its output must say the patch replaced.
EXAMPLES: dict[str, tuple[list[str], str]] = {
    "plain_loop": ([], "loss       LlamaForCausalLM"),
    "transformers_trainer": (["accelerate"], "loss       LlamaForCausalLM"),
    "peft_lora": (["peft"], "loss       LlamaForCausalLM"),
    "peft_quantized": (["peft", "accelerate"], "quantized  "),
    "lightning_loop": (["lightning"], "loss       LlamaForCausalLM"),
    "torchtitan_conversion": ([], ""),
    "trl_sft": (["trl", "datasets"], "loss       LlamaForCausalLM"),
    "trl_dpo": (["trl", "datasets"], "loss       LlamaForCausalLM"),
    "trl_grpo": (["trl", "datasets"], "loss       LlamaForCausalLM"),
    "sentence_embeddings": (["sentence_transformers", "datasets"], "attention  BertModel"),
}


def run(name: str, *options: str) -> str:
    command = [sys.executable, str(REPOSITORY / "examples" / f"{name}.py"), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRANSFORMERS_VERBOSITY": "error"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    packages, replaced = EXAMPLES[name]
    for package in ("transformers", *packages):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install '.[examples]'")
    assert "--steps" in run(name, "--help")
    model = ["--gguf", str(asset(SMOLLM2))] if name == "peft_quantized" else []
    printed = run(name, *model, "--steps", "4" if model else "8", "--batch-size", "2", "--length", "64")
    for moment in ("before", "after"):
        assert re.search(rf"{moment} +[\d,]+ tokens/s +peak memory \+[\d,]+ MB", printed)
    assert replaced in printed
    kind, *values = re.search(r"(loss|reward) ([\d.]+) -> ([\d.]+)", printed).groups()  # type: ignore[union-attr]
    first, last = map(float, values)
    assert last < first if kind == "loss" else 0 < first < 1 > last > 0  # a few steps say nothing of rewards


def test_every_example_is_tested() -> None:
    scripts = {path.stem for path in (REPOSITORY / "examples").glob("*.py")} - {"measured", "tiny"}
    assert scripts == set(EXAMPLES)
