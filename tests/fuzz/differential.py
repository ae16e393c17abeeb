"""Our ids, text and offsets beside those of independent implementations, on random tokenizers and random texts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyllm import Tokenizer
from tests.fuzz.harness import Case
from tests.fuzz.random_texts import random_text
from tests.fuzz.random_tokenizers import byte_level, character_level, unigram, word_piece
from tests.fuzz.tokenizer_files import exercise


def _random_tokenizer(make: Callable[[random.Random], dict[str, Any]]) -> Case:
    """Ids and text equal those of the tokenizers package."""

    def case(rng: random.Random, folder: Path) -> None:
        import tokenizers

        document = make(rng)
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(document, ensure_ascii=False))
        ours, theirs = Tokenizer.from_file(path), tokenizers.Tokenizer.from_file(str(path))
        added = {token["content"]: token["id"] for token in document["added_tokens"]}
        # tokenizers decodes an added token to what the normalizer makes of it.
        renamed = {i for content, i in added.items() if theirs.id_to_token(i) != content}
        for _ in range(12):
            text = random_text(rng, 12, [*added, "a", "e", "the"])
            (folder / "text.txt").write_text(text, newline="")
            expected = _ids_of(theirs, text)
            if expected is None:
                return
            ids = ours.encode(text, allowed_special="all")
            assert ids == expected, f"{text!r}: {ids} instead of {expected}"
            if not renamed.intersection(ids):
                decoded = theirs.decode(ids, skip_special_tokens=False)
                assert ours.decode(ids) == decoded, f"{text!r}: {ours.decode(ids)!r} instead of {decoded!r}"
            exercise(ours, text)

    return case


def _ids_of(theirs: Any, text: str) -> list[int] | None:
    """None where tokenizers panics, which leaves it in an unknown state."""
    try:
        return theirs.encode(text, add_special_tokens=False).ids
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None


CASES: dict[str, Case] = {
    "random-byte-level": _random_tokenizer(byte_level),
    "random-character-level": _random_tokenizer(character_level),
    "random-unigram": _random_tokenizer(unigram),
    "random-word-piece": _random_tokenizer(word_piece),
}
