"""Sentences per second turned into vectors by a BERT-like encoder: ours beside sentence-transformers and OpenVINO.

    python -m pyllm.bench.end_to_end.sentence_vectors --model all-minilm-l6-v2 --data sentences.txt

Every contender has a process of its own; they take turns. OpenVINO runs transformers' network, converted, in batches
of sentences of about one length, as sentence-transformers makes them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

OURS, SENTENCE_TRANSFORMERS, OPENVINO = "pyllm", "sentence-transformers", "OpenVINO"
_MODULES = {OURS: "pyllm", SENTENCE_TRANSFORMERS: "sentence_transformers", OPENVINO: "openvino"}
BATCH = 32

Embed = Callable[[list[str]], Any]  # unit vectors (sentences, dim)


def main(
    model: Annotated[Path, typer.Option(help="A folder with an encoder that means its tokens' vectors.")],
    data: Annotated[Path, typer.Option(help="A text; its lines are the sentences.")],
    sentences: Annotated[int, typer.Option(min=1)] = 1000,
    threads: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Prints a line for each contender: sentences per second."""
    from .workers import Worker

    lines = [line for line in data.read_text(encoding="utf-8").splitlines() if line.strip()][:sentences]
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(make_embed, name, model, threads, threads=threads))
            for name in able()
        }
        for worker in workers.values():
            worker.seconds_of(lines[: 2 * BATCH])
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds[name].append(worker.seconds_of(lines))
    print(
        f"{len(lines)} sentences, {sum(map(len, lines)) / len(lines):.0f} characters on average, {threads} threads"
    )
    for name, times in seconds.items():
        speed = len(lines) / statistics.median(times)
        print(f"{name:22} {speed:8.1f} sentences/s  {min(times):.2f} to {max(times):.2f} s")


def able() -> list[str]:
    """Who is installed, ours first; says on stderr who is not."""
    installed = [name for name, module in _MODULES.items() if importlib.util.find_spec(module)]
    for name in _MODULES:
        if name not in installed:
            print(f"{name}: not installed", file=sys.stderr)
    return installed


def make_embed(name: str, model: Path, threads: int) -> Embed:
    """A call that turns sentences into unit vectors."""
    if name == OURS:
        import pyllm

        return pyllm.load(model).embed
    if name == SENTENCE_TRANSFORMERS:
        library: Any = importlib.import_module("sentence_transformers")
        network = library.SentenceTransformer(str(model), device="cpu")
        return lambda texts: network.encode(texts, batch_size=BATCH, normalize_embeddings=True)
    return _openvino(model, threads)


def _openvino(model: Path, threads: int) -> Embed:
    import numpy as np

    transformers: Any = importlib.import_module("transformers")
    library: Any = importlib.import_module("openvino")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModel.from_pretrained(model).eval()
    example = dict(tokenizer(["an example"], return_tensors="pt"))
    compiled = library.compile_model(
        library.convert_model(network, example_input=example), "CPU", {"INFERENCE_NUM_THREADS": threads}
    )

    def embed(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda n: -len(texts[n]))
        vectors = np.empty((len(texts), network.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            inputs = dict(tokenizer([texts[n] for n in places], padding=True, return_tensors="np"))
            hidden = compiled(inputs)[0]
            mask = inputs["attention_mask"][:, :, None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors[places] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return vectors

    return embed


if __name__ == "__main__":
    typer.run(main)
