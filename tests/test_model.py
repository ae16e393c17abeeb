"""The facade, with a tiny random model: loading, saving, calling, and what goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import pyllm
from pyllm import GenerationConfig, Model, Trainer, TrainingConfig
from pyllm.data import Row
from pyllm.models import Transformer
from pyllm.training import language_modelling

CHAT = [{"role": "user", "content": "add 🙂"}]


def test_a_saved_model_loads_as_itself(tiny_model: Model, tiny_folder: Path):
    again = pyllm.load(tiny_folder)
    ids = torch.randint(300, (2, 9))
    assert torch.equal(again(ids), tiny_model(ids))
    assert again.config == tiny_model.config
    assert again.eos_token_ids == tiny_model.eos_token_ids == (2, 0)
    prompts = ["def add", CHAT, [5, 6, 7]]
    assert again.generate(prompts, GenerationConfig(max_new_tokens=8)) == tiny_model.generate(
        prompts, GenerationConfig(max_new_tokens=8)
    )
    files = {path.name for path in tiny_folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= files
    assert not any(name.endswith(".tmp") for name in files)


def test_transformers_loads_and_generates_the_same(tiny_model: Model, tiny_folder: Path):
    theirs = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert theirs.generation_config.eos_token_id == [2, 0]
    for prompt in ["def add(a", "class", "Été 漢字"]:
        ids = tokenizer(prompt, return_tensors="pt")
        wanted = theirs.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
        (ours,) = tiny_model.generate(prompt, GenerationConfig(max_new_tokens=24))
        assert ours.token_ids == wanted.tolist()


def test_options_equal_those_of_transformers(tiny_model: Model, tiny_folder: Path):
    theirs = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    options = {
        "max_new_tokens": 30,
        "min_new_tokens": 25,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
    }
    for prompt in ([11, 12, 13], [40] * 7):
        ids = torch.tensor([prompt])
        wanted = theirs.generate(ids, do_sample=False, **options)[0, len(prompt) :]
        assert tiny_model.generate(prompt, GenerationConfig(**options))[0].token_ids == wanted.tolist()


def test_log_probs_belong_to_what_was_generated(tiny_model: Model):
    config = GenerationConfig(max_new_tokens=30, temperature=1.3, seed=3, ignore_eos=True)
    for done in tiny_model.generate([[3], [4, 5, 6, 7], list(range(60))], config):
        whole = tiny_model.log_probs([*done.prompt_token_ids, *done.token_ids])
        assert whole.dtype == torch.float32
        assert torch.equal(whole[-30:], torch.tensor(done.logprobs))
    ids = torch.randint(300, (128,))
    logits = tiny_model(ids[None]).log_softmax(-1)[0, :-1]
    torch.testing.assert_close(tiny_model.log_probs(ids), logits.gather(1, ids[1:, None])[:, 0])


def test_generating_does_not_get_in_the_way_of_training(tiny_model: Model):
    model = Model(Transformer(tiny_model.config))
    (done,) = model.generate([3, 4], max_new_tokens=9, ignore_eos=True)
    old = model.log_probs([3, 4, *done.token_ids])
    ids = torch.tensor([[3, 4, *done.token_ids]])
    new = model(ids).log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    loss = (torch.exp(new - old) * old).mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.network.parameters())
    torch.testing.assert_close(torch.exp(new - old), torch.ones(10))


def test_a_model_can_be_trained_as_it_is(tiny_model: Model, tmp_path: Path):
    torch.manual_seed(1)
    model = Model(Transformer(tiny_model.config), tiny_model.tokenizer)
    ids = np.array([3, 9, 27, 81, 243] * 6)
    row = Row(token_ids=ids, loss_weights=np.ones(30), document_ids=np.zeros(30, np.int64))
    config = TrainingConfig(max_steps=30, per_device_train_batch_size=1, learning_rate=1e-2)
    Trainer(model, language_modelling, [row], config).train()
    model.save(tmp_path)
    for trained in (model, pyllm.load(tmp_path)):
        assert trained.generate([3, 9, 27], max_new_tokens=5)[0].token_ids == [81, 243, 3, 9, 27]


def test_batches_of_mixed_lengths_equal_one_by_one(tiny_model: Model):
    prompts = [[9] * length for length in (1, 30, 4, 100)]
    for options in ({}, {"temperature": 0.9, "seed": 4, "top_p": 0.95}):
        config = GenerationConfig(max_new_tokens=12, **options)
        together = tiny_model.generate(prompts, config)
        for prompt, done in zip(prompts, together, strict=True):
            (alone,) = tiny_model.generate(prompt, config)
            assert alone.token_ids == done.token_ids
            assert alone.logprobs == done.logprobs


def test_stream_is_generate_in_pieces(tiny_model: Model):
    config = GenerationConfig(max_new_tokens=24, temperature=1.0, seed=8)
    stream = tiny_model.stream(CHAT, config)
    pieces = list(stream)
    assert len(pieces) > 5
    (done,) = tiny_model.generate(CHAT, config)
    assert "".join(pieces) == done.text
    assert stream.completion == done


def test_options_by_name(tiny_model: Model):
    config = GenerationConfig(max_new_tokens=9, temperature=1.0, seed=2)
    (wanted,) = tiny_model.generate("def", GenerationConfig(max_new_tokens=4, temperature=1.0, seed=2))
    assert tiny_model.generate("def", config, max_new_tokens=4) == [wanted]
    assert "".join(tiny_model.stream("def", config, max_new_tokens=4)) == wanted.text
    with pytest.raises(TypeError, match="beams"):
        tiny_model.generate("def", beams=4)
    with pytest.raises(ValueError, match="num_beams must be 1 for a request"):
        tiny_model.stream("def", num_beams=4)
    with pytest.raises(TypeError, match="config must be a GenerationConfig"):
        tiny_model.generate("def", {"max_new_tokens": 4})  # type: ignore[arg-type]


def test_without_a_tokenizer(tiny_model: Model, tiny_folder: Path, tmp_path: Path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_folder / name, tmp_path)
    bare = pyllm.load(tmp_path)
    assert bare.tokenizer is None
    (done,) = bare.generate([7, 8], GenerationConfig(max_new_tokens=4))
    assert (done.text, len(done.token_ids)) == ("", 4)
    with pytest.raises(ValueError, match="no tokenizer"):
        bare.generate("text")
    bare.save(tmp_path / "again")
    assert not (tmp_path / "again" / "tokenizer.json").exists()


def test_end_tokens_are_joined_from_all_sources(tiny_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    assert pyllm.load(folder).eos_token_ids == (2, 0, 7)
    (folder / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert pyllm.load(folder).eos_token_ids == (2, 0, 9)


@pytest.mark.parametrize("content", ["[1]", "{"])
def test_a_broken_generation_config_is_named(tiny_folder: Path, tmp_path: Path, content: str):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        pyllm.load(folder)


def test_loading_what_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="download"):
        pyllm.load("HuggingFaceTB/SmolLM2-135M")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pyllm.load(tmp_path / "nowhere.gguf")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        pyllm.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["NoSuchModel"]}))
    with pytest.raises(ValueError, match="NoSuchModel"):
        pyllm.load(tmp_path)
    (tmp_path / "notes.txt").write_text("hello, this is text")
    with pytest.raises(ValueError, match=r"notes\.txt|GGUF"):
        pyllm.load(tmp_path / "notes.txt")


def test_bad_arguments_of_load(tiny_folder: Path):
    with pytest.raises(ValueError, match=r"format must be one of q4_0, .* got 'q9'"):
        pyllm.load(tiny_folder, quantize="q9")
    with pytest.raises(ValueError, match="dtype"):
        pyllm.load(tiny_folder, dtype="float31")
    with pytest.raises(TypeError, match="path"):
        pyllm.load(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[], [3], [[3, 4]], [3] * 129])
def test_log_probs_of_too_little_or_too_much(tiny_model: Model, ids: list):
    with pytest.raises(ValueError, match="input_ids must have shape"):
        tiny_model.log_probs(ids)


def test_log_probs_outside_the_vocabulary(tiny_model: Model):
    with pytest.raises(IndexError):
        tiny_model.log_probs([3, 300])
    with pytest.raises(TypeError):
        tiny_model.log_probs([0.5, 1.0])


def test_a_prompt_as_long_as_the_context(tiny_model: Model):
    with pytest.raises(ValueError, match=r"128 tokens and leaves no room .* context of 128"):
        tiny_model.generate([1] * 128)
    (done,) = tiny_model.generate([1] * 127, GenerationConfig(ignore_eos=True))
    assert (len(done.token_ids), done.finish_reason) == (1, "length")
    assert tiny_model.log_probs([*done.prompt_token_ids, *done.token_ids]).shape == (127,)
