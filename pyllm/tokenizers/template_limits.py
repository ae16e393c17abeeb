"""A budget for chat templates: what a template makes of its input is metered, and a bomb ends in an error.

Loops and macros pay for every pass and the text in them, values for their size where they are printed, joined,
formatted or built, and operations whose result may be much larger than their input (`*`, `replace`, `indent`, widths in
formats) pay before they run. A budget is a number of characters, so a limit does not depend on the machine.

    {% for m in messages %}<|im_start|>{{ m.content | trim }}{% endfor %}
    counted                 spent       shown     limited
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

from jinja2 import TemplateRuntimeError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_SOURCE = 1 << 20
BUDGET = 1 << 23  # characters, and
BUDGET_PER_CHARACTER = 64  # of the input
_MOST_WIDTH = 1000
_MOST_BITS = 1 << 12
# A step of the template, or a value to go through, takes the time of so many characters written...
_STEP = 16
# ... and a character written that of so many searched.
_SEARCH = 16

# Filters that move values without looking into them; all others pay for what the value holds.
_SHALLOW = frozenset(
    [
        "abs",
        "attr",
        "batch",
        "count",
        "d",
        "default",
        "dictsort",
        "first",
        "float",
        "int",
        "items",
        "last",
        "length",
        "list",
        "map",
        "reject",
        "rejectattr",
        "reverse",
        "round",
        "safe",
        "select",
        "selectattr",
        "slice",
    ]
)
# Those of Jinja's that no chat needs and whose time is not in proportion to their text.
_REMOVED_FILTERS = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
# Those that go through what other filters give one by one.
_CONSUMING = frozenset(
    [
        "batch",
        "groupby",
        "join",
        "list",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "select",
        "selectattr",
        "slice",
        "sort",
        "sum",
        "unique",
    ]
)
_WIDTHS = frozenset(["batch", "center", "indent", "ljust", "rjust", "round", "slice", "tojson", "zfill"])
_REFUSED_METHODS = frozenset(["encode", "expandtabs", "format_map", "maketrans", "translate"])
_FORMAT_NUMBER = re.compile(r"\d+")
_NESTED_WIDTH = re.compile(r"\{[^{}]*:[^{}]*\{|%[^%a-zA-Z]*\*")


class _Meter:
    def __init__(self, budget: int) -> None:
        self.left = budget


_METER: ContextVar[_Meter] = ContextVar("meter")


@contextmanager
def metered(characters: int) -> Iterator[None]:
    """Templates rendered inside may do what suits an input of so many characters."""
    token = _METER.set(_Meter(BUDGET + BUDGET_PER_CHARACTER * characters))
    try:
        yield
    finally:
        _METER.reset(token)


def measure(value: Any) -> int:
    """Characters in a value, and `_STEP` for every part. A part that is in it twice counts twice."""
    size, waiting = 0, [value]
    most = _METER.get().left if _METER.get(None) else None
    while waiting:
        part = waiting.pop()
        size += _STEP
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, dict):
            waiting += part.keys()
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part
        if most is not None and size > most:
            break
    return size


def _spend(size: int) -> None:
    meter = _METER.get()
    meter.left -= size + _STEP
    if meter.left < 0:
        raise TemplateRuntimeError("it does more work, or makes more text, than a chat needs")


def _own_size(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict, range)) else 1


def _counted(values: Any) -> Any:
    """What a loop goes through, as something with a length."""
    if hasattr(values, "__next__"):
        values = list(islice(values, _METER.get().left // _STEP + 1))
    _spend(_STEP * _own_size(values))
    return values


def _shown(value: Any) -> Any:
    _spend(measure(value))
    return value


def _sliced(value: Any) -> Any:
    _spend(_own_size(value))
    return value


def _compared(value: Any) -> Any:
    _spend(len(value) // _SEARCH if isinstance(value, str) else measure(value))
    return value


def _searched(value: Any) -> Any:
    return value if isinstance(value, dict) else _compared(value)


# Names that no template can spell.
_PROBES = {
    "counted!": _counted,
    "shown!": _shown,
    "sliced!": _sliced,
    "compared!": _compared,
    "searched!": _searched,
    "spent!": _spend,
}


class _Probes(NodeTransformer):
    """Puts the probes into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "counted!")
        return _paying(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        return _paying(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        return _paying(node)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = _each(node.nodes, "shown!")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = _each(node.nodes, "shown!")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _filtered(self.generic_visit(node), "shown!")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _filtered(self.generic_visit(node), "shown!")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return node if node.ctx != "load" else _filtered(node, "shown!")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "sliced!") if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        for operand in node.ops:
            operand.expr = _filtered(
                operand.expr, "searched!" if operand.op in ("in", "notin") else "compared!"
            )
        node.expr = _filtered(node.expr, "compared!")
        return node


def _filtered(node: Any, name: str) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _each(parts: list[nodes.Expr], name: str) -> list[nodes.Expr]:
    return [
        part if isinstance(part, (nodes.TemplateData, nodes.Const)) else _filtered(part, name)
        for part in parts
    ]


def _paying(node: Any) -> nodes.Node:
    """Each pass through the body spends the text that stands in it."""
    size = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
    payment = nodes.ExprStmt(_filtered(nodes.Const(size, lineno=node.lineno), "spent!"), lineno=node.lineno)
    node.body.insert(0, payment)
    return node


def _check_width(name: str, arguments: tuple[Any, ...]) -> None:
    wide = next((a for a in arguments if isinstance(a, int) and abs(a) > _MOST_WIDTH), None)
    if name in _WIDTHS and wide is not None:
        raise TemplateRuntimeError(f"{name}: expected at most {_MOST_WIDTH}, got {wide}")


def _spend_on_format(form: str, arguments: Any) -> None:
    """A width counts as so many characters, and every field as all of the arguments."""
    if _NESTED_WIDTH.search(form):
        raise TemplateRuntimeError("a format with a width of its arguments is not supported")
    widths = _FORMAT_NUMBER.findall(form)
    if any(len(number) > 4 for number in widths):
        raise TemplateRuntimeError("a format with more than four digits is not supported")
    fields = form.count("%") + form.count("{")
    _spend(sum(map(int, widths)) + len(form) + fields * measure(arguments))


def _spend_on_text(name: str, text: str, arguments: tuple[Any, ...]) -> None:
    """Before a filter or method of text whose result may be larger than the text."""
    size = len(text) // _SEARCH
    if name == "replace" and len(arguments) > 1:
        old, new = str(arguments[0]), str(arguments[1])
        size = len(text) + (text.count(old) if old else len(text) + 1) * (len(new) + _STEP)
    elif name == "indent":
        width = arguments[0] if arguments else 4
        size = len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else _own_size(width))
    elif name == "join" and arguments:
        size = measure(arguments[0]) + _own_size(arguments[0]) * len(text)
    _spend(size)


def _limited(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, paying for what it reads and makes."""
    first = int(hasattr(filter_, "jinja_pass_arg"))

    @functools.wraps(filter_)
    def limited(*arguments: Any, **named: Any) -> Any:
        before, (value, *rest) = arguments[:first], arguments[first:]
        if hasattr(value, "__next__") and name in _CONSUMING:
            value = _counted(value)
        options = (*rest, *named.values())
        _check_width(name, options)
        if name == "sum" and any(_own_size(option) != 1 for option in options if not isinstance(option, str)):
            raise TemplateRuntimeError("sum: only numbers are added up")
        if name not in _SHALLOW:
            _spend(measure(value))
        if name == "format":
            _spend_on_format(str(value), options)
        elif name == "join":
            _spend(_own_size(value) * sum(map(_own_size, options)))
        elif isinstance(value, str):
            _spend_on_text(name, value, options)
        result = filter_(*before, value, *rest, **named)
        _spend(_own_size(result))
        return result

    return limited


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a budget: render inside of `metered`."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.globals["lipsum"]
        for name in _REMOVED_FILTERS:
            del self.filters[name]

    def limit(self) -> None:
        """After the last filter is added."""
        self.filters = {name: _limited(name, filter_) for name, filter_ in self.filters.items()} | _PROBES

    def template(self, source: str) -> Any:
        """The compiled template. Raises jinja2.TemplateError."""
        if len(source) > MOST_SOURCE:
            raise TemplateRuntimeError(f"expected at most {MOST_SOURCE} characters, got {len(source)}")
        return self.from_string(_Probes().visit(self.parse(source)))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        refused = isinstance(obj, str) and attr in _REFUSED_METHODS
        return not refused and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *arguments: Any, **named: Any) -> Any:
        text, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        values = (*arguments, *named.values())
        if isinstance(text, str):
            if name == "join" and arguments:
                arguments = values = (_counted(arguments[0]),)
            _check_width(name, values)
            _spend_on_text(name, text, values)
        elif name == "format" and hasattr(obj, "__wrapped__"):
            _spend_on_format(obj.__wrapped__.__self__, values)
        _spend(sum(map(_own_size, values)))
        result = super().call(context, obj, *arguments, **named)
        _spend(_own_size(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _spend_on_format(left, right)
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (max(right, 1) if operator == "**" else 1) + right.bit_length()
            if bits > _MOST_BITS:
                raise TemplateRuntimeError("a number with too many digits")
        elif operator == "*":
            _spend(_repeated(left, right) or _repeated(right, left))
        else:
            _spend(_own_size(left) + _own_size(right))
        return super().call_binop(context, operator, left, right)


def _repeated(value: Any, times: Any) -> int:
    return (
        max(times, 0) * len(value) if isinstance(times, int) and isinstance(value, (str, list, tuple)) else 0
    )
