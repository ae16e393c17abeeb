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

_ACTIONS, _FORMATS = 6, 64


def write_corpus(folder: Path) -> None:
    """For every action and format: blocks of any bits, floats of any size, the same few bytes over and over, and
    strings behind their lengths with one that is wrong."""
    rng = random.Random(3)
    for action in range(_ACTIONS):
        for format in range(_FORMATS):
            floats = struct.pack("<64f", *(rng.gauss(0, 10.0 ** rng.randint(-38, 37)) for _ in range(64)))
            lengths = [rng.randrange(12) for _ in range(9)] + [rng.choice((1, 1 << 31, (1 << 64) - 8))]
            strings = b"".join(struct.pack("<Q", n) + rng.randbytes(min(n, 12)) for n in lengths)
            contents = (rng.randbytes(1200), floats, bytes(4), b"\xff" * 9, strings)
            for number, content in enumerate(contents):
                head = bytes([action, format, rng.randrange(256), rng.randrange(256)])
                (folder / f"{action}-{format}-{number}").write_bytes(head + content)


def main(seconds: str = "600") -> int:
    """The long run; its findings lie in build/fuzz/native."""
    return run_fuzzer("formats_blocks", write_corpus, seconds)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
