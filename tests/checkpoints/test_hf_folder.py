"""Hugging Face folders: what transformers writes we load, what we write transformers loads, with equal logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pyllm.checkpoints import load_checkpoint, save_checkpoint
from pyllm.checkpoints.hf_config import config_from_hf, config_to_hf
from pyllm.models import ModelConfig, Transformer, preset
from tests.models.hf import VARIANTS, ids, make


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_directions(variant: str, tmp_path: Path) -> None:
    theirs = make(variant)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_checkpoint(tmp_path / "theirs")
    x = ids(2, 30)
    with torch.no_grad():
        expected = theirs(x).logits
        assert (loaded.network(x) - expected).abs().max() < 1e-5 * expected.abs().max()

    save_checkpoint(loaded.network, tmp_path / "ours")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(back) is type(theirs)
    with torch.no_grad():
        assert torch.equal(back(x).logits, expected)
    assert load_checkpoint(tmp_path / "ours").config == loaded.config


def test_config_in_the_style_of_transformers_4() -> None:
    data = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "eos_token_id": [1, 2],
    }
    config = config_from_hf(data)
    assert config.rope_theta == 500000.0
    assert config.rope_scaling is not None
    assert (config.rope_scaling.kind, config.rope_scaling.factor) == ("llama3", 8.0)
    assert config.eos_token_ids == (1, 2)
    assert config_from_hf(config_to_hf(config, torch.float32)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "architecture 'MambaForCausalLM' is not supported"),
        ({"architectures": None, "model_type": "gpt_neox"}, "model_type 'gpt_neox' is not supported"),
        ({"hidden_size": None}, "hidden_size must be a positive integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most"),
        ({"vocab_size": 10**12}, "parameters, the file holds"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"hidden_act": "relu"}, "hidden_act must be one of .* got 'relu'"),
        ({"rope_parameters": {"rope_type": "ntk", "factor": 4.0}}, "rope scaling 'ntk' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, r"rope scaling 'yarn' lacks \['factor'\]"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": "4"}}, "factor must be a positive number"),
        (
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
            "needs 5 short_factors and long_factors, got 1",
        ),
        ({"rope_parameters": {"rope_type": "linear"}}, r"rope scaling 'linear' lacks \['factor'\]"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "one flat table"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "quip"}}, "quantized with 'quip'"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be True or False"),
        (
            {"vocab_size": 96},
            r"'model.embed_tokens.weight' has shape \(97, 48\), the configuration says \(96, 48\)",
        ),
        ({"num_hidden_layers": 2}, r"'model.layers.2.input_layernorm.weight'.* and 5 more not expected"),
        ({"num_hidden_layers": 4}, r"'model.layers.3.input_layernorm.weight'.* missing"),
        ({"attention_bias": True}, "q_proj.bias"),
    ],
)
def test_config_that_does_not_fit(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(data | changes))
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"model.extra": torch.ones(2)}, weights)
    with pytest.raises(ValueError, match=r"tensor 'model\.extra' not expected by llama"):
        load_checkpoint(tmp_path)
    save_file({name: t for name, t in tensors.items() if name != "model.norm.weight"}, weights)
    with pytest.raises(ValueError, match=r"tensor 'model\.norm\.weight' missing"):
        load_checkpoint(tmp_path)
    derived = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)}
    save_file(tensors | derived, weights)
    load_checkpoint(tmp_path)


def test_head_beside_a_tied_embedding(tmp_path: Path) -> None:
    make("llama-tied-mha").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    assert "lm_head.weight" not in tensors
    head = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": head}, weights)
    load_checkpoint(tmp_path)
    save_file(tensors | {"lm_head.weight": head + 1}, weights)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from the embedding"):
        load_checkpoint(tmp_path)


def test_shards(tmp_path: Path) -> None:
    theirs = make("llama")
    theirs.save_pretrained(tmp_path, max_shard_size="60KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    x = ids(1, 8)
    with torch.no_grad():
        assert torch.allclose(load_checkpoint(tmp_path).network(x), theirs(x).logits, atol=1e-4)

    with pytest.raises(ValueError, match="sharded checkpoint"):
        save_checkpoint(Transformer(preset("tiny")), tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    for wrong in ("../" + shards[0].name, str(shards[0]), "model.bin"):
        moved = {name: wrong if file == shards[0].name else file for name, file in data["weight_map"].items()}
        index.write_text(json.dumps({"weight_map": moved}))
        with pytest.raises(ValueError, match="no safetensors file of this folder"):
            load_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": data["weight_map"] | {"extra": shards[0].name}}))
    with pytest.raises(ValueError, match="disagree about 'extra'"):
        load_checkpoint(tmp_path)
    index.write_text(json.dumps(data))
    shards[1].unlink()
    with pytest.raises(ValueError, match="which is missing"):
        load_checkpoint(tmp_path)
    index.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not JSON"):
        load_checkpoint(tmp_path)


def test_damaged_safetensors(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    overlapping = whole.replace(b'"data_offsets":[0,', b'"data_offsets":[1,', 1)
    for blob in (b"", whole[:7], whole[:100], whole[:-1], b"\xff" * 8 + whole[8:], overlapping):
        weights.write_bytes(blob)
        with pytest.raises(ValueError, match="not a sound safetensors file"):
            load_checkpoint(tmp_path)
    renamed = whole[8 : 8 + header].replace(b'"dtype":"F32"', b'"dtype":"I32"', 1)
    weights.write_bytes(whole[:8] + renamed + whole[8 + header :])
    with pytest.raises(ValueError, match=r"stored as torch\.int32"):
        load_checkpoint(tmp_path)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"hf download org/some-model\.1b --local-dir some-model\.1b"):
        load_checkpoint("org/some-model.1b")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_checkpoint("absent.gguf")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="give the folder that holds it"):
        load_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"give its own path \(model\.gguf\)"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        load_checkpoint(tmp_path)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickles, which are never opened"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(stored: torch.dtype, tmp_path: Path) -> None:
    make("llama").to(stored).save_pretrained(tmp_path)
    assert {p.dtype for p in load_checkpoint(tmp_path).network.parameters()} == {stored}
    for wanted in ("bfloat16", torch.float64):
        network = load_checkpoint(tmp_path, dtype=wanted).network
        assert network.dtype == (torch.bfloat16 if wanted == "bfloat16" else wanted)
        assert network(ids(1, 4)).dtype == network.dtype
    for wrong in ("int8", torch.int64, None):
        with pytest.raises(ValueError, match="dtype must be 'auto' or one of"):
            load_checkpoint(tmp_path, dtype=wrong)


def test_tokenizer_and_end_tokens(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.tokenizer_path is None
    assert checkpoint.config.eos_token_ids == (2, 7)
    (tmp_path / "vocab.json").touch()
    (tmp_path / "merges.txt").touch()
    assert load_checkpoint(tmp_path).tokenizer_path == tmp_path
    (tmp_path / "tokenizer.json").touch()
    assert load_checkpoint(tmp_path).tokenizer_path == tmp_path / "tokenizer.json"


def test_save_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Transformer(preset("tiny"))
    save_checkpoint(network, tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]
    before = (tmp_path / "a" / "b" / "model.safetensors").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("pyllm.checkpoints.save.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(network, tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "a" / "b" / "model.safetensors").read_bytes() == before


def test_config_that_no_family_can_express(tmp_path: Path) -> None:
    config = ModelConfig(8, 8, 8, 1, 2, attention_bias=True)
    with pytest.raises(ValueError, match=r"cannot express this model's \['attention_output_bias'\]"):
        save_checkpoint(Transformer(config), tmp_path / "new")
    assert not (tmp_path / "new").exists()
