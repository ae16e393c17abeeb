"""generate, chat, eval and tokenizer on a tiny model from disk."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import sys
from pathlib import Path

import pytest

import pyllm
from pyllm import GenerationConfig, Model
from pyllm.cli import main
from pyllm.cli.terminal import Timings
from pyllm.evaluation import perplexity
from pyllm.generation import Request


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_generate_prints_the_text(tiny_model: Model, tiny_folder: Path, capsys: pytest.CaptureFixture[str]):
    words = ["generate", "--model", str(tiny_folder), "--prompt", "def add", "--max-new-tokens", "12"]
    assert main(words) == 0
    output = capsys.readouterr()
    assert output.out == tiny_model.generate("def add", GenerationConfig(max_new_tokens=12))[0].text + "\n"
    assert output.err == ""


def test_generate_as_json(tiny_model: Model, tiny_folder: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--max-new-tokens", "8", "--temperature", "0.8", "--seed", "3", "--top-k", "20", "--json"]
    assert main(["generate", "--model", str(tiny_folder), "--prompt", "class", *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    config = GenerationConfig(max_new_tokens=8, temperature=0.8, seed=3, top_k=20)
    (done,) = tiny_model.generate("class", config)
    for field in ("text", "token_ids", "finish_reason", "prompt_token_ids"):
        assert printed[field] == getattr(done, field)
    assert set(printed["timings"]) == {"load_seconds", "first_text_seconds", "seconds", "tokens_per_second"}


@pytest.mark.parametrize("flags", [[], ["--chat"]])
def test_generate_reads_standard_input(
    flags: list[str],
    tiny_model: Model,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    type_in(monkeypatch, "Été 🙂\n")
    words = [
        "generate",
        "--model",
        str(tiny_folder),
        "--prompt",
        "-",
        "--max-new-tokens",
        "5",
        "--json",
        *flags,
    ]
    assert main(words) == 0
    prompt = [user("Été 🙂")] if flags else "Été 🙂"
    (done,) = tiny_model.generate(prompt, GenerationConfig(max_new_tokens=5))
    printed = json.loads(capsys.readouterr().out)
    assert (printed["prompt_token_ids"], printed["token_ids"]) == (done.prompt_token_ids, done.token_ids)


def test_a_prompt_that_is_not_text(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe")))
    assert main(["generate", "--model", str(tiny_folder), "--prompt", "-"]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_a_prompt_longer_than_the_context(tiny_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["generate", "--model", str(tiny_folder), "--prompt", "漢" * 200]) == 2
    assert "context of 128" in capsys.readouterr().err


def test_chat_keeps_the_conversation(
    tiny_model: Model,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    config = GenerationConfig(max_new_tokens=6)

    def answer(messages: list[dict[str, str]]) -> str:
        return tiny_model.generate(messages, config)[0].text

    type_in(monkeypatch, "add\n\nclass\n/nonsense\n/reset\nadd\n/quit\nnever read\n")
    words = ["chat", "--model", str(tiny_folder), "--max-new-tokens", "6", "--system", "S"]
    assert main(words) == 0
    system = {"role": "system", "content": "S"}
    first = answer([system, user("add")])
    second = answer([system, user("add"), assistant(first), user("class")])
    assert capsys.readouterr().out == f"{first}\n{second}\n{first}\n"


def test_chat_saves_and_regenerates(
    tiny_model: Model,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    config = GenerationConfig(max_new_tokens=6, temperature=1.0, seed=7)
    first, second = (
        tiny_model.generate([user("add")], dataclasses.replace(config, seed=seed))[0].text for seed in (7, 8)
    )
    saved = tmp_path / "talk.json"
    lines = [
        "/regenerate",
        "add",
        "/regenerate",
        f"/save {saved}",
        f"/save {tmp_path}/no/folder.json",
        "/save",
    ]
    type_in(monkeypatch, "\n".join(lines) + "\n")
    words = ["chat", "--model", str(tiny_folder), "--max-new-tokens", "6"]
    assert main([*words, "--temperature", "1", "--seed", "7"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{first}\n{second}\n"
    assert json.loads(saved.read_text()) == [user("add"), assistant(second)]
    assert "cannot save" in output.err
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]


def test_interrupting_an_answer_keeps_the_conversation(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    chat = importlib.import_module("pyllm.cli.chat")
    show_all = chat.show
    asked: list[list[int]] = []
    interrupted: list[str] = []

    def show(stream: Request) -> Timings:
        asked.append(stream.completion.prompt_token_ids)
        if not interrupted:
            interrupted.append(next(stream))
            raise KeyboardInterrupt
        return show_all(stream)

    monkeypatch.setattr(chat, "show", show)
    type_in(monkeypatch, "add\nclass\n")
    assert main(["chat", "--model", str(tiny_folder), "--max-new-tokens", "5"]) == 0
    tokenizer = pyllm.load(tiny_folder).tokenizer
    assert tokenizer is not None
    conversation = [user("add"), assistant(interrupted[0]), user("class")]
    assert asked == [
        tokenizer.apply_chat_template(conversation[:1]),
        tokenizer.apply_chat_template(conversation),
    ]


def test_a_conversation_that_fills_the_context_goes_on_after_reset(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    type_in(monkeypatch, "add\n" + "漢字" * 100 + "\nadd\n/reset\nadd\n")
    assert main(["chat", "--model", str(tiny_folder), "--max-new-tokens", "3"]) == 0
    output = capsys.readouterr()
    assert output.out.count("\n") >= 3
    assert output.err.count("/reset") == 1


def test_a_model_that_cannot_chat(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    assert main(["chat", "--model", str(tmp_path)]) == 2
    assert "chat template" in capsys.readouterr().err


def test_perplexity(tiny_model: Model, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = "def add(a, b):\n    return a + b\r\n\n<|endoftext|> Été\n" * 20
    (tmp_path / "text.txt").write_bytes(text.encode())
    words = ["eval", "perplexity", "--model", str(tiny_folder), "--data", str(tmp_path / "text.txt")]
    assert main([*words, "--context", "64", "--stride", "32", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert tiny_model.tokenizer is not None
    ids = tiny_model.tokenizer.encode(text, disallowed_special=())
    wanted = perplexity(tiny_model.network, ids, context=64, stride=32)
    assert printed["perplexity"] == pytest.approx(wanted.perplexity)
    assert (printed["num_tokens"], printed["num_predicted"]) == (len(ids), len(ids) - 1)
    assert main([*words, "--max-tokens", "50"]) == 0
    assert "49 of 50 tokens" in capsys.readouterr().out
    assert main([*words, "--max-tokens", "1"]) == 2
    assert main([*words, "--context", "129"]) == 2
    assert "context must lie" in capsys.readouterr().err


def test_documents_are_joined_by_an_empty_line(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.jsonl").write_text('{"text": "one two"}\n{"text": "three"}\n')
    (tmp_path / "a.txt").write_text("one two\n\nthree")
    results = []
    for name in ("a.jsonl", "a.txt"):
        words = ["eval", "perplexity", "--model", str(tiny_folder), "--data", str(tmp_path / name), "--json"]
        assert main(words) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0] == results[1]


def test_tokenizer_train_and_encode(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 20)
    (tmp_path / "b.txt").write_text("the dog sat on the log\n" * 20)
    out = tmp_path / "out" / "tokenizer.json"
    out.parent.mkdir()
    words = ["tokenizer", "train", "--data", str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert main([*words, "--vocab-size", "280", "--out", str(out)]) == 0
    tokenizer = pyllm.Tokenizer.from_file(out)
    assert f"{tokenizer.vocab_size} tokens" in capsys.readouterr().out
    assert tokenizer.eos_token == "<|endoftext|>"

    text = "the cat<|endoftext|> 🙂\n"
    plain = tokenizer.encode(text, disallowed_special=())
    (tmp_path / "c.txt").write_bytes(text.encode())
    encode = ["tokenizer", "encode", "--tokenizer", str(out)]
    assert main([*encode, "--text", text]) == 0
    assert [int(word) for word in capsys.readouterr().out.split()] == plain
    assert main([*encode, "--data", str(tmp_path / "c.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plain
    assert main([*encode, "--text", text, "--allow-special", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == tokenizer.encode(text, allowed_special="all")
    assert main([*encode, "--text", text, "--data", "x"]) == 2


def test_encode_reads_standard_input(
    tiny_model: Model,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    type_in(monkeypatch, "Été\n")
    assert main(["tokenizer", "encode", "--tokenizer", str(tiny_folder / "tokenizer.json"), "--json"]) == 0
    assert tiny_model.tokenizer is not None
    assert json.loads(capsys.readouterr().out) == tiny_model.tokenizer.encode("Été\n")
