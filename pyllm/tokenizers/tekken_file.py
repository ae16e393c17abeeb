"""tekken.json: Mistral's byte-level BPE, ranked like tiktoken's, with the special tokens in front."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from pyllm.tokenizers.definition import (
    BYTE_LEVEL_DECODER,
    AddedToken,
    BytePairs,
    Step,
    TokenizerDefinition,
    tokens_by_id,
)
from pyllm.tokenizers.files import expect, read_json

# What files of versions before v7 do not list.
_OLD_SPECIAL_TOKENS = (
    *(
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
    ),
    *(
        "[/TOOL_RESULTS]",
        "[TOOL_CALLS]",
        "[IMG]",
        "<pad>",
        "[IMG_BREAK]",
        "[IMG_END]",
        "[PREFIX]",
        "[MIDDLE]",
    ),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


def load_tekken(path: Path) -> TokenizerDefinition:
    """Reads a tekken.json. `<s>` goes in front with add_special_tokens. Raises ValueError for a damaged file."""
    document = read_json(path)
    try:
        return _definition(document)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _definition(document: dict[str, Any]) -> TokenizerDefinition:
    config = expect(document.get("config"), dict, "config")
    count = expect(config.get("default_num_special_tokens"), int, "config.default_num_special_tokens")
    size = expect(config.get("default_vocab_size"), int, "config.default_vocab_size")
    expression = expect(config.get("pattern"), str, "config.pattern")
    if not 0 <= count <= size:
        raise ValueError("config: fewer tokens than special tokens")
    names = _special_names(document.get("special_tokens"), count)
    numbered = {i: name.encode() for i, name in enumerate(names)}
    for i, entry in enumerate(expect(document.get("vocab"), list, "vocab")[: size - count]):
        fields = expect(entry, dict, f"vocab[{i}]")
        if fields.get("rank") != i:
            raise ValueError(f"vocab[{i}]: expected rank {i}, got {fields.get('rank')!r}")
        try:
            numbered[count + i] = base64.b64decode(
                expect(fields.get("token_bytes"), str, f"vocab[{i}]"), validate=True
            )
        except ValueError as error:
            raise ValueError(f"vocab[{i}]: token_bytes is not base64: {error}") from None
    split: Step = {
        "type": "Split",
        "pattern": {"Regex": expression},
        "behavior": "Isolated",
        "invert": False,
    }
    bos = next((i for i, name in enumerate(names) if name == "<s>"), None)
    return TokenizerDefinition(
        tokens=tokens_by_id(numbered, "vocab"),
        model=BytePairs(None, ignore_merges=True),
        pre_tokenizers=(split, BYTE_LEVEL_DECODER),
        decoders=(BYTE_LEVEL_DECODER,),
        added_tokens=[AddedToken(name, i) for i, name in enumerate(names)],
        prefix_ids=(bos,) if bos is not None else (),
        bos_token="<s>" if bos is not None else None,
        eos_token="</s>" if "</s>" in names else None,
    )


def _special_names(entries: Any, count: int) -> list[str]:
    """The names of the first `count` ids; those without one are fillers."""
    names = dict(enumerate(_OLD_SPECIAL_TOKENS))
    if entries is not None:
        listed = [expect(entry, dict, "special_tokens") for entry in expect(entries, list, "special_tokens")]
        names = {
            expect(entry.get("rank"), int, "special_tokens: rank"): expect(
                entry.get("token_str"), str, "special_tokens: token_str"
            )
            for entry in listed
        }
    return [names.get(i, f"<SPECIAL_{i}>") for i in range(count)]
