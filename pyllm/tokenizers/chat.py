"""Chat templates: Jinja programs that turn messages into text, in the environment that transformers gives them.

Templates come from strangers: they run in Jinja's sandbox, on copies made of plain JSON types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A guard stands for a special token that a message spells out: the template carries it through like any other text,
# and so it is known afterwards what came from the message. Private-use characters, none of which may be in a message.
_GUARD_PLANES = range(0xF0000, 0x10FFFE)


class RenderedChat(NamedTuple):
    """Text, and the parts of it (begin, end in bytes of its UTF-8) that spell special tokens but are plain text."""

    text: str
    plain: list[tuple[int, int]]


class _GenerationBlock(Extension):
    """{% generation %} ... {% endgeneration %} marks what the assistant says; rendered as if it were not there."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's interface

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render_chat(
    template: str | Mapping[str, str] | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    special_tokens: Sequence[str],
    control: Mapping[str, Any],
    variables: Mapping[str, Any],
) -> RenderedChat:
    """Renders a chat; special tokens in messages, tools and `variables` end up in `plain`.

    The template sees the names of `control` and `variables` too; those of `control` keep their special tokens.
    Raises ValueError if there is no template, if it is broken or rejects the messages, and TypeError if messages or
    tools are not sequences of mappings.
    """
    source = _choose(template, tools)
    guards = _Guards(special_tokens, _text_in([messages, tools, variables]))
    data = {
        "messages": [_mapping(message, "messages", guards) for message in _sequence(messages, "messages")],
        "tools": None
        if tools is None
        else [_mapping(tool, "tools", guards) for tool in _sequence(tools, "tools")],
        "documents": None,
        **control,
        **{name: _plain_data(value, guards) for name, value in variables.items()},
    }
    try:
        return guards.restore(_compile(source).render(data))
    except jinja2.TemplateError as error:
        raise ValueError(f"chat_template: {error}") from error
    except (TypeError, AttributeError, KeyError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"chat_template: it fails on these messages: {error!r}") from error


class _Guards:
    """Swaps special tokens for private characters before rendering, and back afterwards."""

    def __init__(self, special_tokens: Sequence[str], text: str) -> None:
        used = set(text)
        free = (chr(code) for code in _GUARD_PLANES if chr(code) not in used)
        # The longest first, as the encoder prefers it.
        self._guard_of = dict(zip(sorted(special_tokens, key=len, reverse=True), free, strict=False))
        self._token_of = {guard: token for token, guard in self._guard_of.items()}

    def protect(self, text: str) -> str:
        for token, guard in self._guard_of.items():
            if token in text:
                text = text.replace(token, guard)
        return text

    def restore(self, rendered: str) -> RenderedChat:
        parts: list[str] = []
        plain: list[tuple[int, int]] = []
        size = 0
        for part in _split_at(rendered, self._token_of):
            text = self._token_of.get(part, part)
            length = len(text.encode("utf-8", "surrogatepass"))
            if part in self._token_of:
                plain.append((size, size + length))
            parts.append(text)
            size += length
        return RenderedChat("".join(parts), plain)


def _split_at(text: str, marks: Mapping[str, str]) -> list[str]:
    """The text cut before and after every character that is a key of `marks`."""
    parts, begin = [], 0
    for i, character in enumerate(text):
        if character in marks:
            parts += [text[begin:i], character]
            begin = i + 1
    return [part for part in [*parts, text[begin:]] if part]


def _text_in(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "".join(_text_in(part) for part in chain.from_iterable(value.items()))
    if isinstance(value, (list, tuple)):
        return "".join(map(_text_in, value))
    return ""


def _plain_data(value: Any, guards: _Guards) -> Any:
    """A copy made of plain JSON types: a template never gets at the methods of a caller's objects."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return guards.protect(str.__str__(value))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_plain_data(key, guards): _plain_data(item, guards) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_data(item, guards) for item in value]
    raise TypeError(f"messages: expected str, numbers, lists and dicts in them, got {type(value).__name__}")


def _sequence(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name}: expected a list of dicts, got {type(value).__name__}")
    return value


def _mapping(value: Any, name: str, guards: _Guards) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected dicts, got {type(value).__name__}")
    return _plain_data(value, guards)


def _choose(template: str | Mapping[str, str] | None, tools: Any) -> str:
    if isinstance(template, Mapping):
        name = "tool_use" if tools and "tool_use" in template else "default"
        if name not in template:
            raise ValueError(f"chat_template: there is none named 'default', only {sorted(template)}")
        return template[name]
    if template is None:
        raise ValueError(
            "chat_template: the tokenizer has none; render the prompt yourself, or set .chat_template"
        )
    return template


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the HTML escapes of Jinja's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)
