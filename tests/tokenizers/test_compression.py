"""Bytes per token, beside the vocabularies that tiktoken and Hugging Face leave in their caches."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest

from pyllm import Tokenizer
from pyllm.cli import main
from pyllm.tokenizers import compression
from pyllm.tokenizers.compression import well_known
from tests.assets import asset

TEXTS = ("tinyshakespeare/input.txt", "sentencepiece/wagahaiwa_nekodearu.txt")
# As tiktoken's openai_public.py has it.
R50K = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "tiktoken").mkdir()
    ranks = asset("gpt-tokenizer/data/r50k_base.tiktoken")
    shutil.copy(ranks, tmp_path / "tiktoken" / hashlib.sha1(R50K.encode()).hexdigest())
    snapshot = tmp_path / "hub" / "models--Qwen--Qwen3-0.6B" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    Tokenizer.train(["some text"], 260).save(snapshot / "tokenizer.json")
    return tmp_path


def test_compression_counts_as_tokenizers_does(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    some = [asset(name).read_text(encoding="utf-8")[:100_000] for name in TEXTS]
    trained = Tokenizer.train(some, 2000)
    trained.save(tmp_path / "t.json")
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    for text in some:
        expected = len(text.encode()) / len(reference.encode(text).ids)
        assert compression(trained, [text]) == expected
        assert compression(trained, [text.encode(), text]) == expected
    assert math.isnan(compression(trained, []))


def test_vocabularies_in_caches_are_found(caches: Path) -> None:
    found = well_known()
    assert {name: tokenizer.vocab_size for name, tokenizer in found.items()} == {"gpt2": 50257, "qwen3": 260}
    assert found["gpt2"].encode("Hello world") == [15496, 995]


def test_commands_show_bytes_per_token(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = caches / "data.txt", caches / "t.json"
    data.write_text("tokens and bytes, bytes and tokens\n" * 50)
    train = ["tokenizer", "train", "--data", str(data), "--vocab-size", "300", "--out", str(out)]
    assert main(train) == 0
    saved, head, *rows = capsys.readouterr().out.splitlines()
    assert saved == f"{Tokenizer.from_file(out).vocab_size} tokens in {out}"
    assert head.split() == ["tokenizer", "tokens", "bytes", "per", "token"]
    assert [row.split()[0] for row in rows] == [str(out), "gpt2", "qwen3"]

    compare = ["tokenizer", "compare", "--tokenizer", str(out), "--data", str(data)]
    assert main([*compare, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    expected = compression(Tokenizer.from_file(out), [data.read_text()])
    assert shown[str(out)] == {str(data): pytest.approx(expected)}
    assert main(compare) == 0
    assert f"{expected:.2f}" in capsys.readouterr().out
