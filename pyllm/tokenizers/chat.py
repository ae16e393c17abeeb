"""Chat templates: Jinja programs that turn messages into text, in the environment that transformers gives them.

Templates come from strangers: they run in Jinja's sandbox, on copies made of plain JSON types and with a budget
(`template_limits.py`). Messages come from strangers too: what of the text they wrote is known afterwards
(`trusted_text.py`), so that it is never encoded as a control token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.ext import Extension

from pyllm.tokenizers.definition import AddedToken
from pyllm.tokenizers.template_limits import LimitedEnvironment, measure, metered
from pyllm.tokenizers.trusted_text import TrustingCodeGenerator, concatenate, mask_of, trusted

# Templates put control tokens together out of these ('<|' + role + '|>', Phi-3); other roles are text of the message.
_ROLES = frozenset(
    [
        "system",
        "developer",
        "user",
        "human",
        "assistant",
        "model",
        "bot",
        "tool",
        "function",
        "ipython",
        "observation",
        "environment",
        "documents",
        "available_tools",
        "tools",
        "tool_call",
        "tool_response",
    ]
)
_FENCED = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)

# What a template can run into, SyntaxError where its Python is nested too deep.
_FAILURES = (
    *(TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError),
    *(MemoryError, SyntaxError),
)

Template = str | Mapping[str, str] | None


class RenderedChat(NamedTuple):
    """Text, and the parts of it (begin, end in bytes of its UTF-8) that the template did not write itself."""

    text: str
    untrusted: list[tuple[int, int]]


class _GenerationBlock(Extension):
    """{% generation %} ... {% endgeneration %} marks what the assistant says; rendered as if it were not there."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's interface

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def control_flags(added_tokens: Iterable[AddedToken], template: Template) -> list[bool]:
    """For each added token whether it is one that text of a message must never become.

    Those are the special ones; of the others those that the template spells, and those written <|...|>. Runs of
    whitespace, HTML tags and the like, which some vocabularies add for compression, stay text.
    """
    sources = "\n".join(template.values() if isinstance(template, Mapping) else [template or ""])
    return [
        token.special
        or bool(token.content.strip() and (_FENCED.fullmatch(token.content) or token.content in sources))
        for token in added_tokens
    ]


def render_chat(
    template: Template,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    control: Mapping[str, str],
    variables: Mapping[str, Any],
) -> RenderedChat:
    """Renders a chat; the strings in messages, tools and `variables` end up in `untrusted`, all but known roles.

    The template sees the names of `control` and `variables` too; the strings of `control` are trusted.
    Raises ValueError if there is no template, if it is broken or rejects the messages, and TypeError if messages or
    tools are not sequences of mappings.
    """
    source = _choose(template, tools)
    data = {
        "messages": [_message(message) for message in _sequence(messages, "messages")],
        "tools": None if tools is None else [_mapping(tool, "tools") for tool in _sequence(tools, "tools")],
        "documents": None,
        **{name: trusted(_repaired(text)) for name, text in control.items()},
        **{name: _plain_data(value) for name, value in variables.items()},
    }
    try:
        with metered(measure(data)):
            text = _compile(_repaired(source)).render(data)
    except jinja2.TemplateError as error:
        raise ValueError(f"chat_template: {error}") from error
    except _FAILURES as error:
        raise ValueError(f"chat_template: it fails on these messages: {error!r}") from error
    return RenderedChat(
        "".join([text]), byte_spans(text, [m.span() for m in re.finditer(b"\0+", mask_of(text))])
    )


def byte_spans(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of characters, sorted, as spans of bytes of the text's UTF-8."""
    result, at, size = [], 0, 0
    for begin, end in spans:
        first = size + len(text[at:begin].encode())
        at, size = end, first + len(text[begin:end].encode())
        result.append((first, size))
    return result


def _repaired(text: str) -> str:
    """Surrogates as the encoder takes them: pairs join, others become U+FFFD."""
    if text.isascii():
        return str.__str__(text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain_data(value: Any) -> Any:
    """A copy made of plain JSON types: a template never gets at the methods of a caller's objects."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _repaired(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_plain_data(key): _plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_data(item) for item in value]
    raise TypeError(f"messages: expected str, numbers, lists and dicts in them, got {type(value).__name__}")


def _sequence(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name}: expected a list of dicts, got {type(value).__name__}")
    return value


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected dicts, got {type(value).__name__}")
    return _plain_data(value)


def _message(value: Any) -> dict[str, Any]:
    message = _mapping(value, "messages")
    role = message.get("role")
    return {**message, "role": trusted(role)} if isinstance(role, str) and role in _ROLES else message


def _choose(template: Template, tools: Any) -> str:
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


def _joining(join: Callable[..., str]) -> Callable[..., str]:
    """Jinja's filter `join` with a separator that lets the trust of the parts through."""

    @jinja2.pass_eval_context
    def trusting(context: Any, value: Any, d: str = "", attribute: Any = None) -> str:
        return join(context, value, d or trusted(""), attribute)

    return trusting


class _Environment(LimitedEnvironment):
    code_generator_class = TrustingCodeGenerator
    concat = staticmethod(concatenate)
    trusted = staticmethod(trusted)


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    # The optimizer would compute with literals before they are marked.
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"],
        optimized=False,
    )
    environment.filters["tojson"] = _to_json
    environment.filters["join"] = _joining(environment.filters["join"])
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.limit()
    return environment.template(source)
