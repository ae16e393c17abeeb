"""vocab.txt: BERT's WordPiece vocabulary, one token a line; its options are in tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyllm.tokenizers.definition import AddedToken, Step, TokenizerDefinition, WordPiece
from pyllm.tokenizers.files import expect, read_json

UNKNOWN, CLASSIFY, SEPARATE = "[UNK]", "[CLS]", "[SEP]"
_SPECIAL = ("[PAD]", UNKNOWN, CLASSIFY, SEPARATE, "[MASK]")
_TOKENIZER_CLASSES = ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast")


def load_word_piece(path: Path) -> TokenizerDefinition:
    """Reads a vocab.txt as BERT's tokenizer, lower case unless tokenizer_config.json beside it says otherwise.

    Raises ValueError for a file without [UNK] or with a token twice, and for another tokenizer_class.
    """
    config_file = path.parent / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    kind = config.get("tokenizer_class", "BertTokenizer")
    if kind not in _TOKENIZER_CLASSES:
        raise ValueError(f"{config_file}: tokenizer_class {kind!r} is not a WordPiece tokenizer known here")
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from None
    if tokens and not tokens[-1]:
        tokens.pop()
    lower = expect(config.get("do_lower_case", True), bool, f"{config_file}: do_lower_case")
    accents = expect(config.get("strip_accents"), (bool, type(None)), f"{config_file}: strip_accents")
    chinese = expect(
        config.get("tokenize_chinese_chars", True), bool, f"{config_file}: tokenize_chinese_chars"
    )
    try:
        return bert_definition([token.removesuffix("\r") for token in tokens], lower, accents, chinese)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def bert_definition(
    tokens: Sequence[str], lower: bool = True, accents: bool | None = None, chinese: bool = True
) -> TokenizerDefinition:
    """BERT's tokenizer over tokens by id."""
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ValueError("a token occurs twice")
    if UNKNOWN not in ids:
        raise ValueError(f"the vocabulary has no {UNKNOWN}")
    normalizer: Step = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": chinese,
        "strip_accents": accents,
        "lowercase": lower,
    }
    return TokenizerDefinition(
        tokens=[token.encode() for token in tokens],
        model=WordPiece(ids[UNKNOWN]),
        normalizers=(normalizer,),
        pre_tokenizers=({"type": "BertPreTokenizer"},),
        decoders=({"type": "WordPiece", "prefix": "##", "cleanup": True},),
        added_tokens=[AddedToken(token, ids[token]) for token in _SPECIAL if token in ids],
        prefix_ids=(ids[CLASSIFY],) if CLASSIFY in ids else (),
        suffix_ids=(ids[SEPARATE],) if SEPARATE in ids else (),
        bos_token=CLASSIFY if CLASSIFY in ids else None,
        eos_token=SEPARATE if SEPARATE in ids else None,
    )
