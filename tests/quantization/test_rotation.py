"""A rotated network computes what the original does, with weights that lie on no grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pyllm
from pyllm.checkpoints import load_checkpoint
from pyllm.models import Transformer, gpt2_config
from pyllm.quantization import quantize_network, rotated
from tests.assets import asset
from tests.conftest import SMOLLM2
from tests.models.hf import VARIANTS, ids, make

UNLIKE = ("gpt2", "gpt_neo", "cohere", "mixtral", "qwen2_moe", "qwen3_moe")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.startswith(UNLIKE)])
def test_the_function_is_the_same(variant: str, tmp_path: Path) -> None:
    """In float64 to its rounding, and so the folding is exact."""
    model = make(variant)
    model.save_pretrained(tmp_path)
    network = load_checkpoint(tmp_path, dtype="float64").network
    turned = rotated(network, seed=3)
    x = ids(2, 40)
    with torch.no_grad():
        expected = network(x)
        assert (turned(x) - expected).abs().max() < 1e-11 * expected.abs().max()
        theirs = model.double()(x).logits
        assert (turned(x) - theirs).abs().max() < 1e-5 * theirs.abs().max()
    changed = [
        name
        for name, tensor in turned.state_dict().items()
        if name in network.state_dict() and torch.equal(tensor, network.state_dict()[name])
    ]
    assert all(name.endswith(("norm.weight", "bias")) for name in changed)
    assert not turned.config.tie_word_embeddings


def test_seeds() -> None:
    torch.manual_seed(0)
    network = Transformer(pyllm.models.ModelConfig(97, 64, 64, 2, 4))
    one, again, other = rotated(network, 1), rotated(network, 1), rotated(network, 2)
    weight = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(one.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])


def test_what_cannot_be_rotated() -> None:
    with pytest.raises(ValueError, match="only networks with RMSNorm"):
        rotated(Transformer(gpt2_config(97, 32, 1, 2)))
    experts = pyllm.models.MixtureOfExperts(2, 1, 16)
    with pytest.raises(ValueError, match="experts or parallel blocks are not rotated"):
        rotated(Transformer(pyllm.models.ModelConfig(97, 32, 32, 1, 2, experts=experts)))
    network = Transformer(pyllm.models.ModelConfig(97, 64, 64, 1, 4))
    quantize_network(network, "q8_0")
    with pytest.raises(ValueError, match="the network is quantized"):
        rotated(network)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_real_models(name: str, request: pytest.FixtureRequest) -> None:
    """To float32's accuracy: the rotated weights are rounded once more."""
    path = asset(SMOLLM2) if name == "smollm2" else request.getfixturevalue("gemma3_path")
    network = pyllm.load(path, dtype="float32").network
    x = ids(1, 64, vocab_size=network.config.vocab_size)
    with torch.inference_mode():
        expected = network(x)
        error = rotated(network)(x) - expected
    assert error.square().mean().sqrt() < 3e-5 * expected.square().mean().sqrt()
