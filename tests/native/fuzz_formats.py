"""Seeds for tests/native/formats/blocks.cpp, and its long run.

`python -m tests.native.fuzz_formats [SECONDS]` builds it with address and undefined-behaviour sanitizer and runs it,
under libFuzzer where clang++ is installed, else under the driver that the tests use.
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

from tests.native.fuzz_tokenizers import run_fuzzer

_ACTIONS, _FORMATS = 5, 64


def write_corpus(folder: Path) -> None:
    """For every action and format: blocks of any bits, floats of any size, and the same few bytes over and over."""
    rng = random.Random(3)
    for action in range(_ACTIONS):
        for format in range(_FORMATS):
            floats = struct.pack("<64f", *(rng.gauss(0, 10.0 ** rng.randint(-38, 37)) for _ in range(64)))
            for number, content in enumerate((rng.randbytes(1200), floats, bytes(4), b"\xff" * 9)):
                head = bytes([action, format, rng.randrange(256), rng.randrange(256)])
                (folder / f"{action}-{format}-{number}").write_bytes(head + content)


def main(seconds: str = "600") -> int:
    """The long run; its findings lie in build/fuzz/native."""
    return run_fuzzer("formats_blocks", write_corpus, seconds)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
