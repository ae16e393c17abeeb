"""The post-processor of a tokenizer.json: what it puts around the ids."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyllm.tokenizers.components import flatten
from pyllm.tokenizers.definition import Step
from pyllm.tokenizers.files import expect


class Surroundings(NamedTuple):
    """What the post-processor puts around the ids."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()


def read_surroundings(post_processor: Any) -> Surroundings:
    """The ids around one text. Raises ValueError for a step that is not supported."""
    around = Surroundings()
    for step in flatten(post_processor, "processors"):
        inner = _surroundings_of_step(step)
        around = Surroundings(inner.prefix + around.prefix, around.suffix + inner.suffix)
    return around


def _surroundings_of_step(step: Step) -> Surroundings:
    kind = step.get("type")
    if kind == "ByteLevel":
        return Surroundings()
    if kind in ("BertProcessing", "RobertaProcessing"):
        ids = [expect(step.get(name), list, f"post_processor: {name}") for name in ("cls", "sep")]
        first, last = (expect(pair[-1] if pair else None, int, "post_processor: id") for pair in ids)
        return Surroundings((first,), (last,))
    if kind == "TemplateProcessing":
        return _template_surroundings(step)
    raise ValueError(f"post_processor {kind!r} is not supported")


def _template_surroundings(step: Step) -> Surroundings:
    tokens = expect(step.get("special_tokens") or {}, dict, "post_processor: special_tokens")
    prefix: list[int] = []
    suffix: list[int] = []
    side = prefix
    for piece in expect(step.get("single"), list, "post_processor: single"):
        if "Sequence" in expect(piece, dict, "post_processor: single"):
            side = suffix
            continue
        name = expect(piece.get("SpecialToken"), dict, "post_processor: SpecialToken").get("id")
        entry = expect(tokens.get(name), dict, f"post_processor: special token {name!r}")
        ids = expect(entry.get("ids"), list, f"post_processor: ids of {name!r}")
        side += [expect(token_id, int, f"post_processor: ids of {name!r}") for token_id in ids]
    return Surroundings(tuple(prefix), tuple(suffix))
