"""What save writes, Hugging Face's tokenizers and transformers load with equal ids, and so do we."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from tests.tokenizers.oracles import NAMES, naughty_strings, ours

tokenizers = pytest.importorskip("tokenizers")
END = "<|endoftext|>"
PATTERNS = ["gpt2", "gpt4", "o200k", "llama3", "qwen2", "smollm", "none"]


@pytest.mark.parametrize(
    "name",
    [name if name in ("gpt2", "smollm2") else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_loaded_again_by_tokenizers_and_by_us(name: str, tmp_path: Path) -> None:
    tokenizer = ours(name)
    tokenizer.save(tmp_path)
    theirs, again = (
        tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")),
        Tokenizer.from_file(tmp_path),
    )
    assert again.special_tokens == tokenizer.special_tokens
    assert (again.pattern, again.vocab_size) == (tokenizer.pattern, tokenizer.vocab_size)
    assert (again.bos_token, again.eos_token) == (tokenizer.bos_token, tokenizer.eos_token)
    assert again.chat_template == tokenizer.chat_template
    for text in [*naughty_strings(), *tokenizer.special_tokens]:
        expected = tokenizer.encode(text, allowed_special="all", add_special_tokens=True)
        assert theirs.encode(text).ids == expected
        assert again.encode(text, allowed_special="all", add_special_tokens=True) == expected


@pytest.fixture(scope="module", params=PATTERNS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """A small tokenizer of every pattern, and what tokenizers loads from its file."""
    text = "We'LL say hello hello   world 12345\n\n\nHÉLLO\t世界 x's DON'T\n" * 9
    trained = Tokenizer.train([text], 330, pattern=request.param, special_tokens=[END])
    file = tmp_path_factory.mktemp("saved") / "tokenizer.json"
    trained.save(file)
    return trained, tokenizers.Tokenizer.from_file(str(file))


PARTS = st.sampled_from([*" \n\r\t'/.!aASsLlWEe012²éÉ世\u0301ʰǅ\u3000", "'ll", END])


@given(text=st.lists(PARTS, max_size=30).map("".join))
@settings(max_examples=200, deadline=None)
def test_every_pattern_means_the_same_to_tokenizers(pair: tuple[Tokenizer, Any], text: str) -> None:
    trained, theirs = pair
    ids = trained.encode(text, allowed_special="all")
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == trained.decode(ids) == text


def test_transformers_loads_the_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    trained = Tokenizer.train(["hello world\n" * 9], 300, special_tokens=[END, "<s>"])
    trained.bos_token = "<s>"
    trained.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    trained.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode("hello world!", add_special_tokens=False) == trained.encode("hello world!")
    assert (theirs.bos_token_id, theirs.eos_token_id) == (trained.bos_token_id, trained.eos_token_id)
    messages = [{"role": "user", "content": "hello"}]
    expected = theirs.apply_chat_template(messages, return_dict=False)
    assert trained.apply_chat_template(messages, add_generation_prompt=False) == expected


def test_named_templates_and_jinja_files(tmp_path: Path) -> None:
    trained = Tokenizer.train(["hello world\n" * 9], 300)
    trained.chat_template = {"default": "plain", "tool_use": "tools"}
    trained.save(tmp_path)
    again = Tokenizer.from_file(tmp_path)
    assert again.chat_template == trained.chat_template
    assert again.render_chat_template([]) == "plain"
    assert again.render_chat_template([], tools=[{"name": "f"}]) == "tools"
    (tmp_path / "chat_template.jinja").write_text("from a file")
    assert Tokenizer.from_file(tmp_path).render_chat_template([]) == "from a file"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Tokenizer.train(["hello world\n" * 9], 300)
    trained.save(tmp_path / "t.json")
    before = (tmp_path / "t.json").read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        trained.save(tmp_path / "t.json")
    assert (tmp_path / "t.json").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["t.json"]
