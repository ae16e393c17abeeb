"""Networks and tokenizers written as GGUF: what the gguf package reads is what its own writer would have been given."""

from __future__ import annotations

import dataclasses
import random
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import pyllm
from pyllm import Tokenizer
from pyllm.checkpoints import load_checkpoint, read_gguf
from pyllm.checkpoints.gguf_write import write_gguf as write_file
from pyllm.cli import main
from pyllm.models import ModelConfig, RopeScaling, Transformer, gpt2_config
from pyllm.quantization import save_gguf
from tests.assets import asset
from tests.checkpoints.test_gguf_model import write_gguf as write_by_gguf
from tests.fuzz.random_texts import random_text
from tests.models.hf import VARIANTS, ids, make
from tests.tokenizers.oracles import NAMES, SMOLLM2, naughty_strings, ours

REFUSED = {
    "mistral-window": "sliding_window",
    "qwen2-windows": "sliding_window",
    "llama-mqa-llama3": "rope_scaling",  # not the published wavelengths, which readers assume
    "llama-dynamic-rope": "rope_scaling",
    "llama-yarn": "rope_scaling",
    "qwen3-yarn-mscale": "rope_scaling",
    "gemma3-caps": "attention_scale, logit_softcap",
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
WRITTEN = [name for name in VARIANTS if name.split("-")[0] in FAMILIES and name not in REFUSED]


def _tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("variant", WRITTEN)
def test_as_the_gguf_package_would_write_it(variant: str, tmp_path: Path) -> None:
    model = make(variant)
    model.save_pretrained(tmp_path / "folder")
    loaded = load_checkpoint(tmp_path / "folder", dtype="float32")
    save_gguf(loaded.network, tmp_path / "ours.gguf")
    write_by_gguf(tmp_path / "theirs.gguf", model)
    written, expected = _tensors(tmp_path / "ours.gguf"), _tensors(tmp_path / "theirs.gguf")
    assert written.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(written[name], values, err_msg=name)
    again = load_checkpoint(tmp_path / "ours.gguf", dtype="float32")
    changed = {"model_type", "initializer_range"}
    for field in dataclasses.fields(ModelConfig):
        if field.name not in changed:
            assert getattr(again.config, field.name) == pytest.approx(
                getattr(loaded.config, field.name), nan_ok=True
            ), field.name
    with torch.no_grad():
        expected_logits = model(ids(2, 25)).logits
        error = (again.network(ids(2, 25)) - expected_logits).abs().max()
        assert error < 1e-5 * expected_logits.abs().max()


@pytest.mark.parametrize("variant", REFUSED)
def test_what_llama_cpp_does_not_know_is_refused(variant: str, tmp_path: Path) -> None:
    make(variant).save_pretrained(tmp_path / "folder")
    network = load_checkpoint(tmp_path / "folder").network
    with pytest.raises(ValueError, match=f"cannot express this model's {REFUSED[variant]}"):
        save_gguf(network, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_window_as_wide_as_the_context_is_none(tmp_path: Path) -> None:
    config = ModelConfig(
        97, 64, 64, 1, 4, model_type="mistral", sliding_window=32, max_position_embeddings=32
    )
    network = Transformer(config)
    save_gguf(network, tmp_path / "m.gguf", "f16")
    assert load_checkpoint(tmp_path / "m.gguf").config.sliding_window is None


def test_llama_3s_frequencies(tmp_path: Path) -> None:
    scaling = RopeScaling("llama3", 8.0)
    config = ModelConfig(97, 64, 64, 1, 4, rope_scaling=scaling, rope_theta=500000.0)
    network = Transformer(config).eval()
    save_gguf(network, tmp_path / "m.gguf")
    again = load_checkpoint(tmp_path / "m.gguf", dtype="float32").network
    assert again.config.rope_scaling == scaling
    with torch.no_grad():
        assert torch.equal(again(ids(1, 30)), network(ids(1, 30)))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    network = Transformer(gpt2_config(97, 32, 1, 2))
    with pytest.raises(ValueError, match="model_type 'gpt2' has no GGUF architecture here"):
        save_gguf(network, tmp_path / "m.gguf")


@pytest.fixture(
    params=["smollm2", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "smollm2")]
)
def byte_level(request: pytest.FixtureRequest) -> Tokenizer:
    return ours(request.param)


def _written(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keys = tokenizer.gguf_metadata(tokenizer.vocab_size + 5)
    write_file(folder / "t.gguf", {"general.architecture": "llama"} | keys, [])
    return Tokenizer.from_file(folder / "t.gguf")


def _texts(tokenizer: Tokenizer) -> list[str]:
    rng = random.Random(3)
    return [*naughty_strings(), *tokenizer.special_tokens, *(random_text(rng, 40) for _ in range(200))]


def test_byte_level_tokenizers(byte_level: Tokenizer, tmp_path: Path) -> None:
    again = _written(byte_level, tmp_path)
    assert again.vocab_size == byte_level.vocab_size + 5
    assert (again.bos_token, again.eos_token) == (byte_level.bos_token, byte_level.eos_token)
    assert again.chat_template == byte_level.chat_template
    nfc = any(step["type"] == "NFC" for step in byte_level._definition.normalizers)
    for text in _texts(byte_level):
        if byte_level.pattern == "gpt4" and text != text.rstrip():
            continue  # llama.cpp cuts whitespace at the end otherwise, which is said in a warning
        if nfc and not text.isascii():
            continue  # GGUF has no normalizer, which is said in a warning
        options: dict[str, Any] = {"allowed_special": "all", "add_special_tokens": True}
        assert again.encode(text, **options) == byte_level.encode(text, **options), text


@pytest.mark.slow
def test_gemmas_tokenizer(tmp_path: Path) -> None:
    """From Hugging Face's tokenizer.json, which has merges where GGUF has scores."""
    tokenizer = Tokenizer.from_file(asset("tokenizer-gemma3/models/tokenizer.json"))
    again = _written(tokenizer, tmp_path)
    for text in _texts(tokenizer):
        if "▁" in text:
            continue  # Hugging Face finds the tokens of several spaces in a text that spells them "▁▁", GGUF in "  "
        assert again.encode(text, allowed_special="all") == tokenizer.encode(text, allowed_special="all"), (
            text
        )


@pytest.mark.parametrize("name", ["smollm2", pytest.param("gemma", marks=pytest.mark.slow)])
def test_the_keys_of_real_files_come_back(name: str, request: pytest.FixtureRequest) -> None:
    path = asset(SMOLLM2) if name == "smollm2" else request.getfixturevalue("gemma3_path")
    stored, tokenizer = read_gguf(path).metadata, Tokenizer.from_file(path)
    keys = tokenizer.gguf_metadata(len(stored["tokenizer.ggml.tokens"]))
    checked = [key for key in keys if key in stored]
    assert len(checked) >= 9
    for key in checked:
        assert np.array_equal(keys[key], stored[key]), key


def test_what_gguf_cannot_hold() -> None:
    tokenizer = Tokenizer.train(["a b c d"], 260)
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ ids, the model only 200"):
        tokenizer.gguf_metadata(200)
    with pytest.warns(UserWarning, match="llama.cpp has no pretokenizer 'gpt4'"):
        tokenizer.gguf_metadata(260)
    uncut = Tokenizer.train(["a b c d"], 260, pattern="none")
    with pytest.raises(ValueError, match="cuts text like none of"):
        uncut.gguf_metadata(260)


def test_convert_both_ways(tiny_folder: Path, tiny_model: pyllm.Model, tmp_path: Path) -> None:
    arguments = ["convert", "--model", str(tiny_folder), "--out", str(tmp_path / "tiny.gguf")]
    with pytest.warns(UserWarning, match="gpt4"):
        assert main(arguments) == 0
    back = ["convert", "--model", str(tmp_path / "tiny.gguf"), "--out", str(tmp_path / "folder")]
    assert main(back) == 0
    again = pyllm.load(tmp_path / "folder")
    x = ids(1, 30, vocab_size=300)
    with torch.no_grad():
        assert torch.equal(again(x), tiny_model(x))
    assert set(again.eos_token_ids) == set(tiny_model.eos_token_ids)
    assert again.tokenizer is not None
    assert tiny_model.tokenizer is not None
    assert again.tokenizer.encode("def add") == tiny_model.tokenizer.encode("def add")
    assert again.tokenizer.chat_template == tiny_model.tokenizer.chat_template


def test_quantize_a_folder_to_gguf(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(tiny_folder), "--format", "q4_0", "--out", str(tmp_path / "q.gguf")]
    with pytest.warns(UserWarning, match="gpt4"):
        assert main(["quantize", *arguments]) == 0
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q4_0"
    assert kinds["token_embd.weight"] == "Q8_0"
    assert pyllm.load(tmp_path / "q.gguf").generate("def", max_new_tokens=3)[0].token_ids
