"""Text that knows which of its characters a chat template wrote itself, whatever the template did to it.

    template   {{ '<|im_start|>' + role + '\\n' }}{{ content | trim }}<|im_end|>
    text       <|im_start|>user\\nhi <|im_end|><|im_end|>
    trusted    ^^^^^^^^^^^^    ^             ^^^^^^^^^^

Trust starts at the template's literals and is carried along by the operations below. Any other operation gives a str,
which is not trusted: trust can get lost on the way, but text of a message can never gain it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, SupportsIndex

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame


class TrustedText(str):
    """A str with a mask: one byte for each character, 1 where it is trusted. Without a mask nothing is."""

    __slots__ = ("_mask",)
    _mask: bytes

    def __new__(cls, text: str, mask: bytes = b"") -> TrustedText:
        result = super().__new__(cls, text)
        result._mask = mask if len(mask) == len(result) else bytes(len(result))
        return result

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        return concatenate((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return concatenate((other, self)) if isinstance(other, str) else NotImplemented

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        part = key if isinstance(key, slice) else slice(key, None if int(key) == -1 else int(key) + 1)
        return TrustedText(super().__getitem__(key), self._mask[part])

    def lstrip(self, characters: str | None = None, /) -> str:
        return self[len(self) - len(str.lstrip(self, characters)) :]

    def rstrip(self, characters: str | None = None, /) -> str:
        return self[: len(str.rstrip(self, characters))]

    def strip(self, characters: str | None = None, /) -> str:
        return self.rstrip(characters).lstrip(characters)

    # No letter becomes fewer letters in the other case, so masks of equal length fit.
    def upper(self) -> str:
        return TrustedText(str.upper(self), self._mask)

    def lower(self) -> str:
        return TrustedText(str.lower(self), self._mask)

    def join(self, parts: Iterable[str], /) -> str:
        pieces: list[str] = []
        for part in parts:
            pieces += [self, part] if pieces else [part]
        return concatenate(pieces)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        left = int(count)
        if not old:
            return str.replace(self, old, new, left)
        parts: list[str] = []
        at = 0
        while left != 0 and (found := self.find(old, at)) >= 0:
            parts += [self[at:found], new]
            at, left = found + len(old), left - 1
        return concatenate([*parts, self[at:]])


@lru_cache(maxsize=4096)
def trusted(text: str) -> TrustedText:
    """All of it is trusted."""
    return TrustedText(text, b"\1" * len(text))


def mask_of(text: str) -> bytes:
    """One byte for each character, 1 where it is trusted."""
    return text._mask if isinstance(text, TrustedText) else bytes(len(text))


def concatenate(parts: Iterable[Any]) -> str:
    """ "".join of the parts as text; each brings its trust along."""
    texts = [str(part) for part in parts]
    joined = "".join(texts)
    if not any(isinstance(text, TrustedText) for text in texts):
        return joined
    return TrustedText(joined, b"".join(map(mask_of, texts)))


class TrustingCodeGenerator(CodeGenerator):
    """Compiles templates whose literals are trusted. Needs trusted= and concat= of this module in the environment."""

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self._trusted("".join(map(str, group)))

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        value = node.as_const(frame.eval_ctx)
        if isinstance(value, str):
            self.write(self._trusted(value))
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(self._trusted(node.data))

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    @staticmethod
    def _trusted(literal: str) -> str:
        return f"environment.trusted({literal!r})"
