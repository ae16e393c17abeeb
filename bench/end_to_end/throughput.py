"""Tokens per second of many requests of mixed length on one GGUF file: ours beside llama.cpp (llama-cpp-python).

    python -m pyllm.bench.end_to_end.throughput --model SmolLM2-135M-Instruct.Q4_1.gguf

All requests are there at the start and decode greedily, each to a length of its own. Both contenders put what decodes
and as much of the prompts as fits into steps of at most 512 tokens, on the same number of threads; llama.cpp through
its batch interface with the sampler in C, as its server does. Rounds are interleaved in one process.
"""

from __future__ import annotations

import ctypes
import importlib
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

MAX_BATCH_TOKENS = 512
Workload = list[tuple[list[int], int]]  # prompts, and how many tokens each gets
Run = Callable[[Workload], None]


def main(
    model: Annotated[Path, typer.Option(help="A .gguf file.")],
    requests: Annotated[int, typer.Option(min=1)] = 32,
    longest_prompt: Annotated[int, typer.Option(min=8)] = 400,
    most_new_tokens: Annotated[int, typer.Option(min=4)] = 128,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Prints a line for each contender: new tokens, and all tokens, per second."""
    work = workload(requests, longest_prompt, most_new_tokens)
    read, made = sum(len(prompt) for prompt, _ in work), sum(count for _, count in work)
    print(f"{requests} requests: {read} prompt tokens, {made} new ones; {threads} threads, {rounds} rounds")
    contenders = {"pyllm": ours(model, threads)} | llama_cpp(model, threads, work)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run([(prompt[:8], 2) for prompt, _ in work[:2]])
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(work)
            seconds[name].append(time.perf_counter() - start)
    for name, measured in seconds.items():
        median = statistics.median(measured)
        spread = f"{min(measured):.2f} to {max(measured):.2f} s"
        print(f"{name:10} {made / median:8.1f} new tokens/s {(read + made) / median:8.1f} tokens/s  {spread}")


def workload(requests: int, longest_prompt: int, most_new_tokens: int) -> Workload:
    """Random prompts of 8 to `longest_prompt` tokens, 4 to `most_new_tokens` new tokens each; always the same."""
    chance = random.Random(0)
    return [
        (
            [chance.randrange(1000, 20000) for _ in range(chance.randint(8, longest_prompt))],
            chance.randint(4, most_new_tokens),
        )
        for _ in range(requests)
    ]


def ours(model: Path, threads: int) -> Run:
    import torch

    import pyllm

    torch.set_num_threads(threads)
    loaded = pyllm.load(model)

    def run(work: Workload) -> None:
        engine = pyllm.Engine(loaded, max_batch_tokens=MAX_BATCH_TOKENS, max_batch_size=len(work))
        requests = [engine.submit(prompt, max_new_tokens=n, ignore_eos=True) for prompt, n in work]
        while engine.step():
            pass
        assert [len(request.completion.token_ids) for request in requests] == [n for _, n in work]

    return run


def llama_cpp(model: Path, threads: int, work: Workload) -> dict[str, Run]:
    """llama.cpp where it is installed: with one buffer of keys and values for all, and with one for each request."""
    try:
        library = importlib.import_module("llama_cpp")
    except ImportError:
        print("llama.cpp: not installed (pip install llama-cpp-python)")
        return {}
    silent = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(silent, ctypes.c_void_p())
    library.llama_backend_init()
    network = library.llama_model_load_from_file(str(model).encode(), library.llama_model_default_params())
    return {
        f"llama.cpp, {'one buffer' if unified else 'a buffer each'}": _batched(
            library, network, threads, work, unified, silent
        )
        for unified in (True, False)
    }


def _batched(library: Any, network: Any, threads: int, work: Workload, unified: bool, silent: Any) -> Run:
    longest = max(len(prompt) + count for prompt, count in work)
    total = sum(len(prompt) + count for prompt, count in work)
    settings = library.llama_context_default_params()
    settings.n_ctx = total if unified else longest * len(work)
    settings.n_batch = settings.n_ubatch = MAX_BATCH_TOKENS
    settings.n_seq_max, settings.kv_unified = len(work), unified
    settings.n_threads = settings.n_threads_batch = threads
    context = library.llama_init_from_model(network, settings)
    sampler = library.llama_sampler_init_greedy()
    batch = library.llama_batch_init(MAX_BATCH_TOKENS, 0, 1)

    def run(work: Workload, _kept: Any = silent) -> None:
        library.llama_memory_clear(library.llama_get_memory(context), True)
        texts = [list(prompt) for prompt, _ in work]
        goals = [len(prompt) + count for prompt, count in work]
        stored = [0] * len(work)
        while unfinished := [n for n in range(len(work)) if len(texts[n]) < goals[n]]:
            batch.n_tokens, ready = 0, []
            for n in sorted(
                unfinished, key=lambda n: len(texts[n]) - stored[n] > 1
            ):  # who decodes comes first
                take = min(len(texts[n]) - stored[n], MAX_BATCH_TOKENS - batch.n_tokens)
                for token in texts[n][stored[n] : stored[n] + take]:
                    place = batch.n_tokens
                    batch.token[place], batch.pos[place] = token, stored[n]
                    batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, n, 0
                    stored[n] += 1
                    batch.n_tokens += 1
                if take and stored[n] == len(texts[n]):
                    batch.logits[batch.n_tokens - 1] = 1
                    ready.append((n, batch.n_tokens - 1))
            if library.llama_decode(context, batch):
                raise RuntimeError("llama_decode failed")
            for n, place in ready:
                texts[n].append(library.llama_sampler_sample(sampler, context, place))

    return run


if __name__ == "__main__":
    typer.run(main)
