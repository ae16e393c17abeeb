"""A real GPT-2 of 9 million parameters against transformers: logits, greedy text, both directions of files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

import pyllm
from tests.assets import asset

FOLDER = "microformer-mgm/mgm/resources/general_model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as safetensors: pyllm opens no pickles."""
    folder = tmp_path_factory.mktemp("gpt2")
    shutil.copy(asset(f"{FOLDER}/config.json"), folder)
    state = torch.load(asset(f"{FOLDER}/pytorch_model.bin"), weights_only=True, map_location="cpu")
    state.pop("lm_head.weight", None)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def test_oracle(folder: Path, tmp_path: Path) -> None:
    oracle = json.loads(asset("reference/mgm_gpt2.json").read_text())
    model = pyllm.load(folder, dtype="float32")
    log_probs = model.log_probs(oracle["ids"])
    assert (log_probs - torch.tensor(oracle["logprobs"])).abs().max() < 1e-4

    theirs = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    x = torch.tensor([oracle["ids"]])
    with torch.no_grad():
        expected = theirs(x).logits
        assert (model(x) - expected).abs().max() < 1e-5 * expected.abs().max()
        greedy = theirs.generate(x[:, :8], max_new_tokens=40, do_sample=False, pad_token_id=0)
    completion = model.generate(oracle["ids"][:8], max_new_tokens=40)[0]
    assert completion.token_ids == greedy[0, 8:].tolist()

    model.save(tmp_path / "ours")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(back(x).logits, expected)
