"""tokenizer.json of the tokenizers package, in: byte-level BPE. Whatever is not understood is an error, never guessed.

Truncation and padding settings are ignored: they are no part of a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pyllm.tokenizers.byte_alphabet import unspell
from pyllm.tokenizers.definition import AddedToken, TokenizerDefinition, merge_ids, tokens_by_id
from pyllm.tokenizers.files import expect, read_json
from pyllm.tokenizers.patterns import canonical_pattern, recognise_expression

END_OF_TEXT = "<|endoftext|>"


class _Surroundings(NamedTuple):
    """What the post-processor puts around the ids."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()


class _TokenizerConfig(NamedTuple):
    """What tokenizer_config.json and chat_template.jinja add to tokenizer.json."""

    bos_token: str | None = None
    eos_token: str | None = None
    chat_template: str | Mapping[str, str] | None = None


def load_tokenizer_json(path: Path, pattern: str | None = None) -> TokenizerDefinition:
    """Reads a tokenizer.json; `pattern` replaces its pretokenizer.

    A file of that very name takes bos, eos and chat template from tokenizer_config.json and chat_template.jinja beside
    it. Raises ValueError for a damaged file and for a model, normalizer or pretokenizer that is not supported.
    """
    document = read_json(path)
    try:
        definition = _definition(document, pattern)
        beside = _read_config(path.parent) if path.name == "tokenizer.json" else _TokenizerConfig()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _with_config(definition, beside)


def _definition(document: dict[str, Any], pattern: str | None) -> TokenizerDefinition:
    model = expect(document.get("model"), dict, "model")
    _check_model(model, document)
    vocabulary = _vocabulary(model)
    added = [
        _added_token(entry) for entry in expect(document.get("added_tokens") or [], list, "added_tokens")
    ]
    return TokenizerDefinition(
        tokens=_tokens(vocabulary, added),
        merges=merge_ids(expect(model.get("merges"), list, "model.merges"), vocabulary, "model.merges"),
        ignore_merges=bool(model.get("ignore_merges")),
        pattern=canonical_pattern(pattern) if pattern else _pattern(document.get("pre_tokenizer")),
        nfc=_is_nfc(document.get("normalizer")),
        added_tokens=added,
        prefix_ids=(around := _surroundings(document.get("post_processor"))).prefix,
        suffix_ids=around.suffix,
    )


def _check_model(model: dict[str, Any], document: dict[str, Any]) -> None:
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise ValueError(f"model type {kind!r} is not supported yet (only byte-level BPE is)")
    decoder = document.get("decoder")
    if model.get("byte_fallback") or (decoder is not None and "ByteLevel" not in _component_types(decoder)):
        raise ValueError(
            "model type 'BPE' in the manner of SentencePiece is not supported yet (only byte-level BPE is)"
        )
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise ValueError(f"model: {option} {model[option]!r} is not supported")


def _component_types(component: Any) -> list[str]:
    return [str(part.get("type")) for part in _components(component, "decoders")]


def _components(component: Any, members: str) -> list[dict[str, Any]]:
    """The parts of a pipeline step in order: a Sequence's members, the step itself, or none."""
    if component is None:
        return []
    step = expect(component, dict, members)
    if step.get("type") != "Sequence":
        return [step]
    return [expect(part, dict, members) for part in expect(step.get(members), list, members)]


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    vocabulary = expect(model.get("vocab"), dict, "model.vocab")
    wrong = next((spelling for spelling, token_id in vocabulary.items() if type(token_id) is not int), None)
    if wrong is not None:
        raise ValueError(f"model.vocab[{wrong!r}]: expected int, got {type(vocabulary[wrong]).__name__}")
    return vocabulary


def _added_token(entry: Any) -> AddedToken:
    fields = expect(entry, dict, "added_tokens")
    content = expect(fields.get("content"), str, "added_tokens: content")
    if not content:
        raise ValueError("added_tokens: content is empty")
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return AddedToken(
        content,
        expect(fields.get("id"), int, f"added_tokens: id of {content!r}"),
        **{
            flag: expect(fields.get(flag, False), bool, f"added_tokens: {flag} of {content!r}")
            for flag in flags
        },
    )


def _tokens(vocabulary: dict[str, int], added: list[AddedToken]) -> list[bytes | None]:
    numbered: dict[int, bytes] = {}
    contents = {token.content for token in added}
    for spelling, token_id in vocabulary.items():
        if token_id in numbered:
            raise ValueError(f"model.vocab: id {token_id} stands for two tokens")
        numbered[token_id] = spelling.encode() if spelling in contents else _bytes_of(spelling)
    for token in added:
        if vocabulary.get(token.content, token.id) != token.id:
            raise ValueError(
                f"added_tokens: {token.content!r} has id {token.id}, but the vocabulary says otherwise"
            )
        if numbered.setdefault(token.id, token.content.encode()) != token.content.encode():
            raise ValueError(f"added_tokens: id {token.id} of {token.content!r} stands for another token too")
    return tokens_by_id(numbered, "model.vocab")


def _bytes_of(spelling: str) -> bytes:
    try:
        return unspell(spelling)
    except ValueError:
        return spelling.encode("utf-8", "replace")  # what tokenizers decodes it to; no text is encoded to it


def _pattern(pre_tokenizer: Any) -> str:
    parts = _components(pre_tokenizer, "pretokenizers")
    types = [part.get("type") for part in parts]
    if "ByteLevel" not in types or types[-1] != "ByteLevel":
        raise ValueError(f"pre_tokenizer {types} is not supported (expected it to end in 'ByteLevel')")
    byte_level = parts[-1]
    if byte_level.get("add_prefix_space"):
        raise ValueError("pre_tokenizer: ByteLevel with add_prefix_space is not supported")
    splits_itself = byte_level.get("use_regex", True)
    if types == ["ByteLevel"]:
        return "gpt2" if splits_itself else "none"
    if types == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") is True and splits_itself:
        return "smollm"
    if types == ["Split", "ByteLevel"] and not splits_itself:
        return _split_pattern(parts[0])
    raise ValueError(f"pre_tokenizer: the sequence {parts} is not one of the known patterns")


def _split_pattern(split: dict[str, Any]) -> str:
    """Every known expression matches all of the text, so removing what lies between matches removes nothing."""
    how = (split.get("behavior"), bool(split.get("invert")))
    if how not in (("Isolated", False), ("Removed", True)):
        raise ValueError(f"pre_tokenizer: Split with behavior {how[0]!r}, invert {how[1]} is not supported")
    pattern = expect(split.get("pattern"), dict, "pre_tokenizer: pattern")
    return recognise_expression(expect(pattern.get("Regex"), str, "pre_tokenizer: pattern.Regex"))


def _is_nfc(normalizer: Any) -> bool:
    types = [step.get("type") for step in _components(normalizer, "normalizers")]
    if types not in ([], ["NFC"]):
        raise ValueError(f"normalizer {types} is not supported yet (only NFC is)")
    return bool(types)


def _surroundings(post_processor: Any) -> _Surroundings:
    around = _Surroundings()
    for step in _components(post_processor, "processors"):
        inner = _surroundings_of_step(step)
        around = _Surroundings(inner.prefix + around.prefix, around.suffix + inner.suffix)
    return around


def _surroundings_of_step(step: dict[str, Any]) -> _Surroundings:
    kind = step.get("type")
    if kind == "ByteLevel":
        return _Surroundings()
    if kind in ("BertProcessing", "RobertaProcessing"):
        ids = [expect(step.get(name), list, f"post_processor: {name}") for name in ("cls", "sep")]
        first, last = (expect(pair[-1] if pair else None, int, "post_processor: id") for pair in ids)
        return _Surroundings((first,), (last,))
    if kind == "TemplateProcessing":
        return _template_surroundings(step)
    raise ValueError(f"post_processor {kind!r} is not supported")


def _template_surroundings(step: dict[str, Any]) -> _Surroundings:
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
    return _Surroundings(tuple(prefix), tuple(suffix))


def _read_config(folder: Path) -> _TokenizerConfig:
    file = folder / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    template = config.get("chat_template")
    if isinstance(template, list):
        entries = [expect(entry, dict, "chat_template") for entry in template]
        template = {
            str(entry.get("name")): expect(entry.get("template"), str, "chat_template") for entry in entries
        }
    elif template is not None:
        template = expect(template, str, "chat_template")
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        template = jinja.read_text(encoding="utf-8")
    return _TokenizerConfig(_content(config.get("bos_token")), _content(config.get("eos_token")), template)


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _with_config(definition: TokenizerDefinition, config: _TokenizerConfig) -> TokenizerDefinition:
    """Without a configuration, bos is what the post-processor puts first, and eos is `<|endoftext|>` if it is there."""
    contents = {token.content: token.id for token in definition.added_tokens}
    first = definition.prefix_ids[0] if definition.prefix_ids else None
    leading = next((content for content, token_id in contents.items() if token_id == first), None)
    bos, eos = config.bos_token or leading, config.eos_token
    if config == _TokenizerConfig() and END_OF_TEXT in contents:
        eos = END_OF_TEXT
    return replace(
        definition,
        bos_token=bos if bos in contents else None,
        eos_token=eos if eos in contents else None,
        chat_template=config.chat_template,
    )
