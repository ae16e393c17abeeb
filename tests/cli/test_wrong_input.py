"""Wrong input of every kind ends in one line on stderr that names it, exit code 2, and no file written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyllm.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one good text and all sorts of bad files."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("It was the best of times, it was the worst of times.\n" * 50)
    Path("empty.txt").write_text("")
    Path("latin1.txt").write_bytes("Gr\u00fc\u00dfe".encode("latin-1"))
    Path("empty").mkdir()
    Path("corrupt.gguf").write_bytes(b"GGUF" + bytes(range(200)))
    Path("cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    Path("text.gguf").write_text("no model at all")
    Path("corrupt.json").write_text('{"model": {"type": "BPE", "vocab"')
    Path("strange.json").write_text('{"model": {"type": "Unheard"}}')
    Path("bad.toml").write_text("steps = = 3")
    Path("unknown.toml").write_text("stepz = 3")
    Path("range.toml").write_text("[training]\nlearning_rate = -1.0")
    Path("bad.jsonl").write_text('{"text": 3}\n')
    Path("bad.txt.gz").write_bytes(b"\x1f\x8b\x08 broken")
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps({"model_type": "llama"}))
    return tmp_path


TRAIN = "tokenizer train --out t.json --vocab-size 300"
PRETRAIN = "pretrain --data text.txt --out o --steps 1"
WRONG = [
    # (words, what the line must mention)
    ("generate", "--model"),
    ("generate --model nowhere.gguf", "nowhere.gguf"),
    ("generate --model corrupt.gguf", "corrupt.gguf"),
    ("generate --model cut.gguf", "cut.gguf"),
    ("generate --model text.gguf", "text.gguf"),
    ("generate --model text.txt", "text.txt"),
    ("generate --model empty", "empty"),
    ("generate --model model", "model"),
    ("generate --model HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M"),
    ("generate --model corrupt.gguf --max-new-tokens many", "max-new-tokens"),
    ("generate --model corrupt.gguf --max-new-tokens -1", "max_new_tokens"),
    ("generate --model corrupt.gguf --temperature nan", "temperature"),
    ("generate --model corrupt.gguf --temperature -1", "temperature"),
    ("generate --model corrupt.gguf --top-p 2", "top_p"),
    ("generate --model corrupt.gguf --seed x", "seed"),
    ("chat --model nowhere", "nowhere"),
    ("chat --model corrupt.gguf", "corrupt.gguf"),
    ("eval perplexity --model corrupt.gguf", "--data"),
    ("eval perplexity --model corrupt.gguf --data nowhere.txt", "nowhere.txt"),
    ("eval perplexity --model corrupt.gguf --data empty.txt", "empty.txt"),
    ("eval perplexity --model corrupt.gguf --data text.txt", "corrupt.gguf"),
    ("eval perplexity --model nowhere --data text.txt", "nowhere"),
    ("tokenizer", "command"),
    ("tokenizer nope", "nope"),
    ("tokenizer train --data text.txt --out t.json", "--vocab-size"),
    ("tokenizer train --data text.txt --out t.json --vocab-size 10", "vocab_size"),
    (f"{TRAIN} --data nowhere.txt", "nowhere.txt"),
    (f"{TRAIN} --data empty.txt", "no text"),
    (f"{TRAIN} --data empty", "empty"),
    (f"{TRAIN} --data latin1.txt", "latin1.txt"),
    (f"{TRAIN} --data bad.jsonl", "bad.jsonl"),
    (f"{TRAIN} --data bad.txt.gz", "bad.txt.gz"),
    (f"{TRAIN} --data text.txt --pattern nope", "pattern"),
    ("tokenizer train --data text.txt --vocab-size 300 --out text.txt/t.json", "text.txt"),
    ("tokenizer encode --text hi", "--tokenizer"),
    ("tokenizer encode --tokenizer nowhere.json --text hi", "nowhere.json"),
    ("tokenizer encode --tokenizer corrupt.json --text hi", "corrupt.json"),
    ("tokenizer encode --tokenizer strange.json --text hi", "strange.json"),
    ("tokenizer encode --tokenizer corrupt.gguf --text hi", "corrupt.gguf"),
    ("tokenizer encode --tokenizer empty --text hi", "empty"),
    ("pretrain --data text.txt", "--out"),
    ("pretrain --out o --data nowhere.txt", "nowhere.txt"),
    ("pretrain --out o --data text.txt empty", "empty"),
    ("pretrain --out o --data bad.jsonl", "bad.jsonl"),
    ("pretrain --out text.txt --data text.txt", "text.txt"),
    (f"{PRETRAIN} --preset nope", "nope"),
    (f"{PRETRAIN} --steps 0", "max_steps"),
    (f"{PRETRAIN} --steps many", "steps"),
    (f"{PRETRAIN} --batch-size 0", "batch_size"),
    (f"{PRETRAIN} --seq-len -1", "sequence_length"),
    (f"{PRETRAIN} --seed x", "seed"),
    (f"{PRETRAIN} --save-every -1", "save_steps"),
    (f"{PRETRAIN} --tokenizer nowhere.json", "nowhere.json"),
    (f"{PRETRAIN} --tokenizer corrupt.json", "corrupt.json"),
    (f"{PRETRAIN} --config nowhere.toml", "nowhere.toml"),
    (f"{PRETRAIN} --config bad.toml", "bad.toml"),
    (f"{PRETRAIN} --config unknown.toml", "stepz"),
    (f"{PRETRAIN} --config range.toml", "learning_rate"),
    (f"{PRETRAIN} --config empty", "empty"),
    ("bench nope", "nope"),
    ("bench rms_norm --json nowhere/b.json", "nowhere"),
    ("bench rms_norm --isa avx1024", "avx1024"),
    ("bench rms_norm --runs 0", "--runs"),
    ("demo --data nowhere.txt", "nowhere.txt"),
    ("demo --seconds 0", "seconds"),
    ("demo --seconds soon", "seconds"),
    ("demo --model corrupt.gguf", "corrupt.gguf"),
    ("demo --model nowhere.gguf", "nowhere.gguf"),
    ("demo --out text.txt", "text.txt"),
    ("demo --out model", "model"),
    ("info --jsom", "--jsom"),
]


@pytest.mark.parametrize(("words", "mentioned"), WRONG, ids=[words for words, _ in WRONG])
def test_one_line_names_it(
    words: str, mentioned: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    assert main(words.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("pyllm: error: ")
    assert output.err.count("\n") == 1
    assert mentioned in output.err
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == before
