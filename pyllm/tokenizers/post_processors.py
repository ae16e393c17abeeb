"""The post-processor of a tokenizer: what it puts around the ids of a text or a pair, and which offsets it trims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pyllm.tokenizers.components import flatten
from pyllm.tokenizers.definition import Step, TokenizerDefinition, check_id
from pyllm.tokenizers.encoding import Encoding, concatenate, of_special
from pyllm.tokenizers.files import expect


class Part(NamedTuple):
    """A text (0 or 1) or ids, and the segment that it counts as."""

    text: int | None
    ids: tuple[int, ...]
    type_id: int


class PostProcessor(NamedTuple):
    """The templates of one text and of two (empty: not supported).

    trims: for each step that trims offsets, whether a space was put in front of the text.
    """

    single: tuple[Part, ...] = (Part(0, (), 0),)
    pair: tuple[Part, ...] = (Part(0, (), 0), Part(1, (), 1))
    trims: tuple[bool, ...] = ()

    def added(self, texts: int) -> int:
        """How many ids are put around so many texts."""
        return sum(len(part.ids) for part in (self.single, self.pair)[texts - 1])

    def assemble(self, texts: Sequence[Encoding], add_special_tokens: bool) -> Encoding:
        """The template filled in. Raises ValueError for a pair if there is none for pairs."""
        template = (self.single, self.pair)[len(texts) - 1]
        if not template:
            raise ValueError("text_pairs: the tokenizer's post-processor has no form for pairs")
        parts = []
        for text, ids, type_id in template:
            if text is not None:
                parts.append(_typed(texts[text], type_id))
            elif add_special_tokens:
                parts.append(of_special(ids, type_id))
        return concatenate(parts)


def read_post_processor(definition: TokenizerDefinition) -> PostProcessor:
    """The one of a tokenizer.json, or else the ids around a text, and between two as models of that kind have them."""
    if definition.post_processors:
        return parse_steps(definition.post_processors)
    prefix, suffix = definition.prefix_ids, definition.suffix_ids
    first = [Part(None, prefix, 0), Part(0, (), 0), Part(None, suffix, 0)]
    second = [Part(None, () if suffix else prefix, 1), Part(1, (), 1), Part(None, suffix, 1)]
    return PostProcessor(_filled(first), _filled([*first, *second]))


def _filled(parts: Sequence[Part]) -> tuple[Part, ...]:
    return tuple(part for part in parts if part.text is not None or part.ids)


def surroundings(processor: PostProcessor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids before and after a single text."""
    at = next(i for i, part in enumerate(processor.single) if part.text is not None)
    before, after = processor.single[:at], processor.single[at + 1 :]
    return sum((part.ids for part in before), ()), sum((part.ids for part in after), ())


def parse_post_processor(post_processor: Any) -> tuple[tuple[Step, ...], PostProcessor]:
    """The steps of a tokenizer.json's post_processor, and what they do. Raises ValueError for one not supported."""
    steps = flatten(post_processor, "processors")
    return steps, parse_steps(steps)


def parse_steps(steps: Sequence[Step]) -> PostProcessor:
    """Raises ValueError for a step that is not supported."""
    result = PostProcessor()
    for step in steps:
        kind = expect(step.get("type"), str, "post_processor: type")
        if kind == "ByteLevel":
            result = _with_trimming(result, step)
        elif kind in _TEMPLATES:
            inner = _TEMPLATES[kind](step)
            nested = result._replace(
                single=_nest(inner.single, result.single), pair=_nest(inner.pair, result.pair)
            )
            result = _with_trimming(nested, step) if kind == "RobertaProcessing" else nested
        else:
            raise ValueError(f"post_processor {kind!r} is not supported")
    return result


def _with_trimming(processor: PostProcessor, step: Step) -> PostProcessor:
    if not expect(step.get("trim_offsets", True), bool, "post_processor: trim_offsets"):
        return processor
    prefix_space = expect(step.get("add_prefix_space", True), bool, "post_processor: add_prefix_space")
    return processor._replace(trims=(*processor.trims, prefix_space))


def _nest(outer: tuple[Part, ...], inner: tuple[Part, ...]) -> tuple[Part, ...]:
    """A template around what the step before has made of one text; () for two, where tokenizers makes no sense."""
    if all(part.text is not None for part in inner):
        return outer
    texts = [part for part in outer if part.text is not None]
    if len(texts) != 1:
        return ()
    at = outer.index(texts[0])
    return (*outer[:at], *inner, *outer[at + 1 :])


def _bert(step: Step) -> PostProcessor:
    first, last = _ends(step)
    whole = (first, Part(0, (), 0), last)
    return PostProcessor(whole, (*whole, Part(1, (), 1), last._replace(type_id=1)))


def _roberta(step: Step) -> PostProcessor:
    first, last = _ends(step)
    whole = (first, Part(0, (), 0), last)
    return PostProcessor(whole, (*whole, last, Part(1, (), 0), last))


def _ends(step: Step) -> tuple[Part, Part]:
    pairs = [expect(step.get(name), list, f"post_processor: {name}") for name in ("cls", "sep")]
    first, last = (_checked_id(pair[-1] if pair else None, "id") for pair in pairs)
    return Part(None, (first,), 0), Part(None, (last,), 0)


def _checked_id(token_id: Any, what: str) -> int:
    number = expect(token_id, int, f"post_processor: {what}")
    check_id(number, f"post_processor: {what}")
    return number


def _template(step: Step) -> PostProcessor:
    single = _template_parts(step, "single")
    pair = _template_parts(step, "pair") if step.get("pair") is not None else PostProcessor().pair
    if [part.text for part in single if part.text is not None] != [0]:
        raise ValueError("post_processor: single: expected one Sequence, A")
    return PostProcessor(single, pair)


def _template_parts(step: Step, name: str) -> tuple[Part, ...]:
    tokens = expect(step.get("special_tokens") or {}, dict, "post_processor: special_tokens")
    parts = []
    for piece in expect(step.get(name), list, f"post_processor: {name}"):
        kind, fields = next(iter(expect(piece, dict, f"post_processor: {name}").items()), ("", None))
        fields = expect(fields, dict, f"post_processor: {kind}")
        type_id = expect(fields.get("type_id", 0), int, f"post_processor: type_id of {kind}")
        if not 0 <= type_id < 256:
            raise ValueError(f"post_processor: type_id: expected 0 to 255, got {type_id}")
        if kind == "Sequence":
            parts.append(Part(0 if fields.get("id") == "A" else 1, (), type_id))
            continue
        special = expect(piece.get("SpecialToken"), dict, "post_processor: SpecialToken")
        label = expect(special.get("id"), str, "post_processor: SpecialToken")
        entry = expect(tokens.get(label), dict, f"post_processor: special token {label!r}")
        ids = expect(entry.get("ids"), list, f"post_processor: ids of {label!r}")
        numbers = tuple(_checked_id(token_id, f"ids of {label!r}") for token_id in ids)
        parts.append(Part(None, numbers, type_id))
    return tuple(parts)


_TEMPLATES: dict[Any, Callable[[Step], PostProcessor]] = {
    "BertProcessing": _bert,
    "RobertaProcessing": _roberta,
    "TemplateProcessing": _template,
}


def _typed(encoding: Encoding, type_id: int) -> Encoding:
    return replace(
        encoding,
        type_ids=np.full(len(encoding), type_id, np.uint8),
        overflowing=tuple(_typed(window, type_id) for window in encoding.overflowing),
    )
