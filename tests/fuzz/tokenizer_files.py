"""Tokenizer files of every form, damaged: each is loaded and works, or is refused by an error that names the file."""

from __future__ import annotations

import base64
import functools
import io
import json
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

from pyllm import Tokenizer, _tokenizers
from pyllm.tokenizers.byte_alphabet import spell
from tests.checkpoints.gguf_bytes import STRING, U32
from tests.fuzz.gguf_parts import BOOL, F32, I32, Key, Parts, mutate_parts
from tests.fuzz.harness import Case, refusal_names
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_lines
from tests.fuzz.protobuf import Field, mutate_message, read_message, write_message
from tests.fuzz.random_texts import random_text

TRAINING_TEXT = "the quick brown fox, don't you know, jumps over 12 lazy dogs\n" * 20
SPECIAL = ["<unk>", "<s>", "</s>"]


def use(path: Path, rng: random.Random, **options: Any) -> None:
    """Loads and uses the tokenizer of a damaged file: `path` is named if it is refused."""
    with refusal_names(str(path), str(path.parent)):
        tokenizer = Tokenizer.from_file(path, **options)
        for _ in range(3):
            exercise(tokenizer, random_text(rng, 60))


def exercise(tokenizer: Tokenizer, text: str | bytes) -> None:
    """Encodes, with and without offsets, decodes, streams; whatever the vocabulary, these agree with each other."""
    ids = tokenizer.encode(text, allowed_special="all")
    again, offsets = tokenizer.encode_with_offsets(text, unit="bytes", allowed_special="all")
    assert ids == again
    length = len(text.encode("utf-8", "replace") if isinstance(text, str) else text)
    assert not ids or (offsets.min() >= 0 and offsets.max() <= 3 * length)
    assert (offsets[:, 0] <= offsets[:, 1]).all()
    assert tokenizer.count(text, allowed_special="all") == len(ids)
    assert tokenizer.encode_batch([text, text], allowed_special="all", num_threads=2) == [ids, ids]
    stream = tokenizer.stream_decoder()
    assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids)


@functools.lru_cache
def byte_level_document() -> dict[str, Any]:
    """A small tokenizer.json of byte-level BPE, as a trained one is saved."""
    with tempfile.TemporaryDirectory() as folder:
        Tokenizer.train([TRAINING_TEXT], 320, special_tokens=SPECIAL).save(Path(folder) / "x.json")
        return json.loads((Path(folder) / "x.json").read_text())


def _tokenizer_json(rng: random.Random, folder: Path) -> None:
    from tests.fuzz.random_tokenizers import random_document

    document = byte_level_document() if rng.random() < 0.3 else random_document(rng)
    path = folder / "tokenizer.json"
    if rng.random() < 0.8:
        path.write_text(json.dumps(mutate_json(rng, document)))
    else:
        path.write_bytes(mutate_bytes(rng, json.dumps(document).encode()))
    if rng.random() < 0.1:
        config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"}
        (folder / "tokenizer_config.json").write_text(json.dumps(mutate_json(rng, config)))
    use(path, rng)


def _vocabulary_and_merges(rng: random.Random, folder: Path) -> None:
    model = byte_level_document()["model"]
    merges = "\n".join(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    vocabulary, lines = json.dumps(model["vocab"]).encode(), f"#version: 0.2\n{merges}\n".encode()
    config = {
        "tokenizer_class": rng.choice(["GPT2Tokenizer", "Qwen2Tokenizer", "RobertaTokenizer"]),
        "added_tokens_decoder": {"1": {"content": "<s>", "special": True}},
    }
    match rng.randrange(3):
        case 0:
            vocabulary = (
                mutate_bytes(rng, vocabulary) if rng.random() < 0.5 else _damaged_object(rng, model["vocab"])
            )
        case 1:
            lines = mutate_lines(rng, lines)
        case _:
            (folder / "tokenizer_config.json").write_bytes(_damaged_object(rng, config))
    (folder / "vocab.json").write_bytes(vocabulary)
    (folder / "merges.txt").write_bytes(lines)
    use(folder / "vocab.json", rng)


def _damaged_object(rng: random.Random, document: Any) -> bytes:
    return json.dumps(mutate_json(rng, document)).encode()


def _tiktoken(rng: random.Random, folder: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" t", b"he", b"qu", b"ab"]
    lines = b"\n".join(base64.b64encode(token) + f" {rank}".encode() for rank, token in enumerate(tokens))
    path = folder / "x.tiktoken"
    path.write_bytes(mutate_lines(rng, lines))
    use(path, rng, pattern=rng.choice(["gpt2", "gpt4", "o200k", "none"]), special_tokens=["<s>"])


def _tekken(rng: random.Random, folder: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" t", b"he"]
    document = {
        "config": {
            "pattern": rng.choice([r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+", r"\w+|\W+"]),
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": len(tokens) + 20,
            "default_num_special_tokens": 20,
            "version": "v3",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
        "special_tokens": [
            {"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(SPECIAL)
        ],
    }
    path = folder / "tekken.json"
    path.write_text(json.dumps(mutate_json(rng, document)))
    use(path, rng)


def _vocab_txt(rng: random.Random, folder: Path) -> None:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghij",
        *(f"##{c}" for c in "abcdefghij"),
        "the",
        "##he",
    ]
    (folder / "vocab.txt").write_bytes(mutate_lines(rng, "\n".join(words).encode()))
    if rng.random() < 0.3:
        (folder / "tokenizer_config.json").write_bytes(
            _damaged_object(rng, {"do_lower_case": True, "strip_accents": None})
        )
    use(folder / "vocab.txt", rng)


@functools.lru_cache
def sentencepiece_blob(kind: str, byte_fallback: bool) -> bytes:
    """A small .model file with rules of its own, as sentencepiece trains it."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text("41\t61\nFB01\t66 69\n3000\t20\n41 42\t78\n")
        output = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TRAINING_TEXT.splitlines()),
            model_writer=output,
            model_type=kind,
            vocab_size=300 if byte_fallback else 50,
            byte_fallback=byte_fallback,
            hard_vocab_limit=False,
            normalization_rule_tsv=str(rules),
            user_defined_symbols=["<u>"],
            minloglevel=2,
        )
        return output.getvalue()


def _sentencepiece(rng: random.Random, folder: Path) -> None:
    blob = sentencepiece_blob(rng.choice(["bpe", "unigram"]), rng.random() < 0.5)
    in_bytes = rng.random() < 0.3
    blob = mutate_bytes(rng, blob) if in_bytes else write_message(_damaged_model(rng, read_message(blob)))
    path = folder / "x.model"
    path.write_bytes(blob)
    use(path, rng)


def _damaged_model(rng: random.Random, fields: list[Field]) -> list[Field]:
    """Damage to the message, or to a piece, the trainer's or the normalizer's message in it."""
    if rng.random() < 0.2:
        return mutate_message(rng, fields)
    number = rng.choice((1, 2, 3))
    at = rng.choice([i for i, field in enumerate(fields) if field.number == number])
    inner = fields[at].value
    assert isinstance(inner, bytes)
    return [
        *fields[:at],
        Field(number, 2, write_message(mutate_message(rng, read_message(inner)))),
        *fields[at + 1 :],
    ]


def gguf_vocabulary(model: str) -> Parts:
    """The keys of a small vocabulary: byte-level BPE, SentencePiece BPE, Unigram or WordPiece."""
    if model == "gpt2":
        vocabulary = byte_level_document()["model"]
        merges = [m if isinstance(m, str) else " ".join(m) for m in vocabulary["merges"]]
        tokens = [spell(bytes([b])) for b in range(256)] + list(
            dict.fromkeys(m.replace(" ", "") for m in merges)
        )
        tokens = [*dict.fromkeys(tokens), "<s>"]
        kinds = [1] * (len(tokens) - 1) + [3]
    elif model == "bert":
        tokens, merges = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁the", "▁a", "b", "c", "▁d"], []
        kinds = [3] * 4 + [1] * 5
    else:
        letters = sorted(set(TRAINING_TEXT.replace(" ", "▁")) - {"\n"})
        tokens = [
            "<unk>",
            "<s>",
            "</s>",
            *(f"<0x{b:02X}>" for b in range(256)),
            *letters,
            "▁t",
            "▁th",
            "▁the",
            "qu",
        ]
        merges, kinds = ["▁ t", "▁t h", "▁th e", "q u"], [2, 3, 3] + [6] * 256 + [1] * (len(letters) + 4)
    scores = tuple(float(-i) for i in range(len(tokens)))
    return Parts(
        (
            Key(b"general.architecture", STRING, (b"llama",)),
            Key(b"tokenizer.ggml.model", STRING, (model.encode(),)),
            Key(b"tokenizer.ggml.pre", STRING, (b"gpt-2" if model == "gpt2" else b"default",)),
            Key(b"tokenizer.ggml.tokens", STRING, tuple(token.encode() for token in tokens), True),
            Key(b"tokenizer.ggml.scores", F32, scores, True),
            Key(b"tokenizer.ggml.token_type", I32, tuple(kinds), True),
            Key(b"tokenizer.ggml.merges", STRING, tuple(merge.encode() for merge in merges), True),
            Key(b"tokenizer.ggml.bos_token_id", U32, (1,)),
            Key(b"tokenizer.ggml.add_bos_token", BOOL, (1,)),
            Key(b"tokenizer.ggml.precompiled_charsmap", 0, tuple(b"\4\0\0\0\0\1\0\0"), True),
            Key(b"tokenizer.chat_template", STRING, (b"{{ messages }}",)),
        )
    )


def _gguf(rng: random.Random, folder: Path) -> None:
    parts = gguf_vocabulary(rng.choice(["gpt2", "llama", "gemma4", "t5", "bert"]))
    path = folder / "x.gguf"
    blob = mutate_parts(rng, parts).blob()
    path.write_bytes(mutate_bytes(rng, blob, 4) if rng.random() < 0.2 else blob)
    use(path, rng)


def own_sections(content: bytes) -> dict[str, bytes]:
    """The sections of a sound file of our own form (csrc/tokenizers/sections.h)."""
    (count,) = struct.unpack_from("<I", content, 12)
    entries = [struct.unpack_from("<32sQQQ", content, 32 + 56 * i) for i in range(count)]
    return {name.rstrip(b"\0").decode(): content[at : at + size] for name, at, size, _ in entries}


def _own_form(rng: random.Random, folder: Path) -> None:
    """Damage that the checksums find, or damaged sections with checksums that fit, which their readers find."""
    from tests.fuzz.random_tokenizers import random_document

    source, path = folder / "tokenizer.json", folder / "x.pyllm-tokenizer"
    source.write_text(json.dumps(random_document(rng)))
    Tokenizer.from_file(source).save(path)
    content = path.read_bytes()
    if rng.random() < 0.2:
        path.write_bytes(mutate_bytes(rng, content))
    else:
        sections = own_sections(content)
        for _ in range(rng.choice((1, 1, 2, 3))):
            _damage_section(rng, sections)
        writer = _tokenizers.SectionWriter()
        for name, part in sections.items():
            writer.text(name, part)
        path.write_bytes(writer.finish())
    use(path, rng)


def _damage_section(rng: random.Random, sections: dict[str, bytes]) -> None:
    name = rng.choice(list(sections))
    part = sections[name]
    match rng.randrange(8):
        case 0:
            del sections[name]
        case 1:
            sections[name] = sections[rng.choice(list(sections))]
        case 2:
            sections[name] = part[: rng.randrange(len(part) + 1) // 4 * 4]
        case 3 | 4 if name == "definition" and (document := _document(part)) is not None:
            sections[name] = json.dumps(mutate_json(rng, document)).encode()
        case 3 | 4 if len(part) >= 4:
            at = rng.randrange(len(part) // 4) * 4
            word = rng.choice((0, 1, 2, 255, 1 << 22, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, len(part)))
            sections[name] = part[:at] + struct.pack("<I", word) + part[at + 4 :]
        case _:
            sections[name] = mutate_bytes(rng, part)


def _document(part: bytes) -> Any:
    """What the JSON says, None where an earlier wound has left none."""
    try:
        return json.loads(part)
    except ValueError:
        return None


CASES: dict[str, Case] = {
    "tokenizer-json": _tokenizer_json,
    "vocab-merges": _vocabulary_and_merges,
    "tiktoken": _tiktoken,
    "tekken": _tekken,
    "vocab-txt": _vocab_txt,
    "sentencepiece": _sentencepiece,
    "gguf-vocabulary": _gguf,
    "own-form": _own_form,
}
