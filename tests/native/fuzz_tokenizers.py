"""Seeds for tests/native/tokenizers/loaders.cpp, and its long run.

`python -m tests.native.fuzz_tokenizers [SECONDS]` builds it with address and undefined-behaviour sanitizer and runs it,
under libFuzzer where clang++ is installed, else under the driver of its own that the tests use.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pyllm import Tokenizer
from tests.assets import REPOSITORY
from tests.fuzz.random_tokenizers import byte_level, character_level, unigram, word_piece
from tests.fuzz.tokenizer_files import own_sections, sentencepiece_blob
from tests.native.sanitize import build, tool

_READERS = ("json", "sentencepiece", "own", "sections", "expression")
_EXPRESSIONS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"[a-z&&[^b]]{2,5}?|\d+|\w*?x",
    r"\s*[\r\n]+|[一-龥]+|(?:ab|cd)+e?",
)
_SPELLED_BYTES = 32  # bit 5 of the second byte: loaders.cpp reads a json as byte-level
_WORD_PIECE = 64


def write_corpus(folder: Path, count: int = 6) -> None:
    """Sound inputs of every reader: the reader, options, and the file."""
    rng = random.Random(1)
    made = 0

    def write(reader: str, options: int, content: bytes) -> None:
        nonlocal made
        made += 1
        (folder / f"{reader}-{made}").write_bytes(bytes([_READERS.index(reader), options]) + content)

    for make, options in (
        (byte_level, _SPELLED_BYTES),
        (character_level, 0),
        (unigram, 1),
        (word_piece, _WORD_PIECE),
    ):
        for _ in range(count):
            document = json.dumps(make(rng), ensure_ascii=rng.random() < 0.5)
            write("json", options | rng.choice((0, 2, 4, 8, 16)), document.encode())
            path = folder / "tokenizer.json"
            path.write_text(document)
            tokenizer = Tokenizer.from_file(path)
            path.unlink()
            _write_own(tokenizer, folder, write)
    for kind in ("bpe", "unigram"):
        for fallback in (False, True):
            blob = sentencepiece_blob(kind, fallback)
            for options in (0, 1, 2, 64):
                write("sentencepiece", options, blob)
            path = folder / "x.model"
            path.write_bytes(blob)
            tokenizer = Tokenizer.from_file(path)
            path.unlink()
            _write_own(tokenizer, folder, write)
    for expression in _EXPRESSIONS:
        write("expression", 0, expression.encode())


def _write_own(tokenizer: Tokenizer, folder: Path, write) -> None:  # type: ignore[no-untyped-def]
    file = folder / "x.pyllm-tokenizer"
    tokenizer.save(file)
    content = file.read_bytes()
    file.unlink()
    write("sections", 0, content)
    sections = own_sections(content)
    packed = b"".join(
        struct.pack("<32sI", name.encode(), len(part)) + part for name, part in sections.items()
    )
    write("own", 0, packed)


def run_fuzzer(target: str, seeds: Callable[[Path], None], seconds: str) -> int:
    """Builds a program of tests/native and runs it on `seeds`; what it finds lies in build/fuzz/native."""
    work = REPOSITORY / "build" / "fuzz" / "native"
    work.mkdir(parents=True, exist_ok=True)
    clang = tool("clang++")
    options = [f"-DCMAKE_CXX_COMPILER={clang}", "-DPYLLM_LIBFUZZER=ON"] if clang else []
    folder = REPOSITORY / "build" / "sanitize" / ("libfuzzer" if clang else "fuzz")
    program = build("address,undefined", folder, *options, target=target)
    with tempfile.TemporaryDirectory() as corpus:
        seeds(Path(corpus))
        command = [str(program), corpus, seconds]
        if clang:
            limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048", "-max_len=65536"]
            command = [str(program), *limits, f"-artifact_prefix={work}/", "-print_final_stats=1", corpus]
        return subprocess.run(command, cwd=work).returncode


def main(seconds: str = "600") -> int:
    """The long run; its findings lie in build/fuzz/native."""
    return run_fuzzer("tokenizers_loaders", write_corpus, seconds)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
