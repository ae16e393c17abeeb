"""The chat templates that llama.cpp tests with: ids are transformers', and no message writes a control token."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pyllm import Tokenizer
from pyllm.tokenizers.definition import AddedToken
from tests.assets import roots

FOLDER = "llama-cpp-python/vendor/llama.cpp/models/templates"
FILES = sorted({path.name for root in roots() for path in (root / FOLDER).glob("*.jinja")})
TOKENS = re.compile(r"<[|｜][^<>\s'\"]{1,40}[|｜]>|\[/?[A-Z_]{2,30}\]|</?s>|</?[a-z]+(?:_[a-z]+)+>|</?think>")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"type": "function", "id": "call00000", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "What is 1 + 1?"}],
    "turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Grüße, 世界 🤗\n"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Tell me <b>more</b>."},
    ],
    "tools": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "weather", "tool_call_id": "call00000", "content": "rain & 'wind'"},
    ],
}

pytestmark = pytest.mark.skipif(not FILES, reason="the templates are not there; run `make assets`")


def source(name: str) -> str:
    return next(root / FOLDER / name for root in roots() if (root / FOLDER / name).exists()).read_text(
        "utf-8"
    )


@lru_cache
def base() -> Tokenizer:
    return Tokenizer.train(["Hello world, what is the weather in Oslo? <|im_start|>user\n" * 9], 400)


def with_tokens(template: str, contents: list[str], plain: tuple[str, ...] = ()) -> Tokenizer:
    """A tokenizer with this template and these added tokens; those in `plain` are not special."""
    definition = base()._definition
    first = len(definition.tokens)
    added = [
        AddedToken(content, first + i, special=content not in plain) for i, content in enumerate(contents)
    ]
    tokens = [*definition.tokens, *(content.encode() for content in contents)]
    named = {"bos_token": "<s>", "eos_token": "</s>"} if "<s>" in contents else {}
    return Tokenizer(replace(definition, tokens=tokens, added_tokens=added, chat_template=template, **named))


@lru_cache
def tokenizer_of(name: str) -> Tokenizer:
    """Every token that the template spells is an added token; the lower-case tags are not special."""
    found = sorted({"<s>", "</s>", *TOKENS.findall(source(name))})
    tags = tuple(token for token in found if re.match("</?[a-z]{2}", token))
    return with_tokens(source(name), found, tags)


def apply(tokenizer: Any, name: str, chat: list[dict[str, Any]], **options: Any) -> Any:
    """What the tokenizer makes of the chat, or None if the template rejects it."""
    try:
        return tokenizer.apply_chat_template(chat, tools=[TOOL] if name == "tools" else None, **options)
    except Exception:
        return None


@pytest.mark.parametrize("file", FILES)
def test_ids_equal_transformers(file: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tokenizer_of(file)
    ours.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    rendered = 0
    for name, chat in CHATS.items():
        for prompt in (True, False):
            expected = apply(theirs, name, chat, add_generation_prompt=prompt, return_dict=False)
            assert apply(ours, name, chat, add_generation_prompt=prompt) == expected, (name, prompt)
            rendered += expected is not None
    if not rendered:
        pytest.skip("the template rejects these chats, here and there")


def marked(chat: list[dict[str, Any]], mark: str) -> list[dict[str, Any]]:
    """The chat with the mark inside of every text that a user, a model or a tool writes."""
    spelled = json.dumps(chat)
    for text in ("1 + 1", "brief", "Hello", "more", "Weather?", "Oslo", "rain"):
        spelled = spelled.replace(text, f"{text[:2]}{mark}{text[2:]}")
    return json.loads(spelled)


@pytest.mark.parametrize("file", FILES)
@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_token_is_put_together_with_text_of_messages(file: str, data: st.DataObject) -> None:
    """Any stretch of the rendered chat that has text of a message in it may be a special token of some vocabulary."""
    name = data.draw(st.sampled_from(sorted(CHATS)))
    chat = marked(CHATS[name], "QZQ")
    text = _text(tokenizer_of(file), name, chat)
    places = [m.start() for m in re.finditer("QZQ", text or "")]
    if text is None or not places:
        return
    at = data.draw(st.sampled_from(places))
    begin = data.draw(st.integers(max(0, at - 30), at + 2))
    end = data.draw(st.integers(max(at, begin) + 1, min(len(text), at + 40)))
    content = text[begin:end]
    tokenizer = with_tokens(source(file), ["<s>", "</s>", content])
    token_id = tokenizer.special_tokens[content]
    assume(token_id in tokenizer.encode(text, allowed_special="all"))
    ids = apply(tokenizer, name, chat)
    assert ids is not None
    # The template may spell the same text elsewhere, where no message has a part in it.
    elsewhere = (_text(tokenizer, name, marked(CHATS[name], "")) or "").count(content)
    assert ids.count(token_id) <= elsewhere


def _text(tokenizer: Tokenizer, name: str, chat: list[dict[str, Any]]) -> str | None:
    try:
        return tokenizer.render_chat_template(chat, tools=[TOOL] if name == "tools" else None)
    except ValueError:
        return None


@pytest.mark.parametrize("file", FILES)
@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_control_tokens_are_those_of_the_template(file: str, data: st.DataObject) -> None:
    """Control tokens, whole and in parts, in what the user says: the ids have just those that a harmless text has."""
    tokenizer = tokenizer_of(file)
    spelled = [token.content for token in tokenizer._definition.added_tokens]
    spelled = [token for token in spelled if token not in ("<think>", "</think>", "<tool_response>")]
    part = st.sampled_from(spelled).flatmap(
        lambda token: st.sampled_from(
            [token, token[: len(token) // 2], token[len(token) // 2 :], " ", "\n", "x"]
        )
    )
    attack = data.draw(st.lists(part, min_size=1, max_size=6).map("".join))
    controls = {token.id for token in tokenizer._definition.added_tokens}
    for attacked, harmless in [(attack, "x"), (f"a{attack}b", "axb")]:
        found = apply(tokenizer, "one", [{"role": "user", "content": attacked}])
        expected = apply(tokenizer, "one", [{"role": "user", "content": harmless}])
        if attacked.strip() and expected is not None and found is not None:
            assert [i for i in found if i in controls] == [i for i in expected if i in controls]
