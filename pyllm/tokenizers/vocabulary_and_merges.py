"""vocab.json (or encoder.json) and merges.txt (or vocab.bpe) side by side: GPT-2's form of byte-level BPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyllm import _tokenizers
from pyllm.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    AddedToken,
    BytePairs,
    Step,
    TokenizerDefinition,
    check_id,
    pattern_step,
)
from pyllm.tokenizers.files import expect, read_json
from pyllm.tokenizers.patterns import canonical_pattern

NAMES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
# tokenizer_class -> pattern, NFC, ids around the text by name.
_CLASSES: dict[str, tuple[str, bool, str | None, str | None]] = {
    "GPT2Tokenizer": ("gpt2", False, None, None),
    "GPT2TokenizerFast": ("gpt2", False, None, None),
    "Qwen2Tokenizer": ("qwen2", True, None, None),
    "Qwen2TokenizerFast": ("qwen2", True, None, None),
    "RobertaTokenizer": ("gpt2", False, "<s>", "</s>"),
    "RobertaTokenizerFast": ("gpt2", False, "<s>", "</s>"),
}
_KNOWN_SPECIAL = ("<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>")


def load_vocabulary_and_merges(path: Path, pattern: str | None = None) -> TokenizerDefinition:
    """Reads either of the two files and the other one beside it.

    The pretokenizer is GPT-2's unless `pattern` or the tokenizer_class of a tokenizer_config.json says otherwise.
    Raises ValueError for a damaged file, a missing one, and a tokenizer_class that is not known.
    """
    names = next(pair for pair in NAMES if path.name in pair)
    vocabulary_file, merges_file = (path.parent / name for name in names)
    for file in (vocabulary_file, merges_file):
        if not file.is_file():
            raise ValueError(f"{path}: {file.name} is missing beside it")
    config_file = path.parent / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    kind = expect(config.get("tokenizer_class", "GPT2Tokenizer"), str, f"{config_file}: tokenizer_class")
    if kind not in _CLASSES and pattern is None:
        raise ValueError(f"{config_file}: tokenizer_class {kind!r} is not known here; pass pattern=")
    try:
        vocabulary = _tokenizers.vocabulary_json(vocabulary_file.read_bytes())
        return _definition(vocabulary, merges_file, config, pattern)
    except ValueError as error:
        raise ValueError(f"{vocabulary_file}: {error}") from error


def _definition(
    vocabulary: Any, merges_file: Path, config: dict[str, Any], pattern: str | None
) -> TokenizerDefinition:
    known, nfc, first, last = _CLASSES.get(str(config.get("tokenizer_class")), ("gpt2", False, None, None))
    added = _added_tokens(vocabulary, config)
    contents = {token.content for token in added}
    lines = merges_file.read_text(encoding="utf-8").split("\n")
    merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    normalizers: tuple[Step, ...] = ({"type": "NFC"},) if nfc else ()
    eos = config.get("eos_token", "<|endoftext|>")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    first_id, last_id = (None if name is None else vocabulary.get(name) for name in (first, last))
    return TokenizerDefinition(
        tokens=vocabulary.tokens(True, [(token.id, token.content) for token in added]),
        model=BytePairs(vocabulary.merges(merges, merges_file.name)),
        normalizers=normalizers,
        pre_tokenizers=(pattern_step(canonical_pattern(pattern or known)),),
        decoders=(BYTE_LEVEL_DECODER,),
        added_tokens=added,
        prefix_ids=() if first_id is None else (first_id,),
        suffix_ids=() if last_id is None else (last_id,),
        post_processors=_post_processors(first, first_id, last, last_id),
        bos_token=None if first_id is None else first,
        eos_token=eos if eos in contents else None,
    )


def _post_processors(
    first: str | None, first_id: int | None, last: str | None, last_id: int | None
) -> tuple[Step, ...]:
    if first_id is None or last_id is None:
        return ()
    ends = {"cls": [first, first_id], "sep": [last, last_id]}
    return ({"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": False},)


def _added_tokens(vocabulary: Any, config: dict[str, Any]) -> list[AddedToken]:
    """Those that tokenizer_config.json lists; without it the well-known ones of the vocabulary."""
    listed = config.get("added_tokens_decoder")
    if listed is None:
        found = ((name, vocabulary.get(name)) for name in _KNOWN_SPECIAL)
        return [AddedToken(name, token_id) for name, token_id in found if token_id is not None]
    added = []
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    for key, entry in expect(listed, dict, "added_tokens_decoder").items():
        fields = expect(entry, dict, "added_tokens_decoder")
        if not key.isdecimal():
            raise ValueError(f"added_tokens_decoder: expected an id, got {key!r}")
        values = {
            flag: expect(fields.get(flag, False), bool, f"added_tokens_decoder: {flag}") for flag in flags
        }
        content = expect(fields.get("content"), str, "added_tokens_decoder: content")
        check_id(int(key), "added_tokens_decoder")
        added.append(AddedToken(content, int(key), **values))
    return added
