"""The first call of a process, when no cache is warm: `python -m ....fresh_process CONTENDER VOCABULARY FILE`."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .case import Call, Reported, calls_of, ids
from .contenders import limit_threads, load
from .vocabularies import VOCABULARIES


def calls(vocabulary: str, text: str) -> tuple[dict[str, Call], dict[str, str]]:
    """Who can encode with the vocabulary; each call starts a process, loads, and times the encoding of the text."""
    able, unavailable = calls_of(vocabulary, lambda contender: lambda: contender)
    return {name: functools.partial(_run, name, vocabulary, text) for name in able}, unavailable


def _run(name: str, vocabulary: str, text: str) -> Reported:
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "text.txt"
        file.write_bytes(text.encode())
        module = f"{__package__}.fresh_process"
        command = [sys.executable, "-m", module, name, vocabulary, str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return Reported(**json.loads(done.stdout))


def main(name: str, vocabulary: str, file: str) -> None:
    limit_threads()
    contender = load(name, VOCABULARIES[vocabulary])
    text = Path(file).read_bytes().decode()
    start = time.perf_counter()
    result = contender.encode(text)
    seconds = time.perf_counter() - start
    digest = hashlib.sha256(ids(result).tobytes()).hexdigest()
    print(json.dumps({"seconds": seconds, "answer": digest}))


if __name__ == "__main__":
    main(*sys.argv[1:])
