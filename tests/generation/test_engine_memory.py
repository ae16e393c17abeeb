"""A prompt of 32,000 tokens takes memory in proportion to its length, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

TOKENS = 32_000
_PROGRAM = f"""
import dataclasses, resource, types
import torch
from pyllm.generation import Engine
from pyllm.models import Transformer, preset

config = dataclasses.replace(preset("smollm2-135m"), num_hidden_layers=1, max_position_embeddings=40_000)
network = Transformer(config).eval()
model = types.SimpleNamespace(network=network, tokenizer=None, eos_token_ids=())
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
Engine(model).generate([list(range(600))], max_new_tokens=2)
before = peak()
(done,) = Engine(model).generate([[n % 997 for n in range({TOKENS})]], max_new_tokens=4)
assert len(done.token_ids) == 4
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_grows_with_the_length_alone() -> None:
    found = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    # Keys and values of the one layer are 49 MB; the scores of a single chunk of 512 tokens would be 590 MB.
    assert int(found.stdout) < 200
