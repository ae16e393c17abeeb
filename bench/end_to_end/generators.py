"""Who generates text: ours and each rival library behind one call, greedy, each request to a length of its own.

    pyllm            a .gguf file or a folder
    llama.cpp        a .gguf file, through llama-cpp-python's batch interface with the sampler in C, as its server does
    OpenVINO GenAI   a .gguf file, which it converts as it loads; several requests through its continuous batching
    transformers     a folder, in the dtype that it is stored in or in float32
    CTranslate2      a folder, which is converted to int8 first; one request at a time

A library that is not installed, or cannot read what there is, takes no part.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_BATCH_TOKENS = 512
Workload = list[tuple[list[int], int]]  # prompts, and how many tokens each gets
Run = Callable[[Workload], None]

OURS, LLAMA_CPP, OPENVINO = "pyllm", "llama.cpp", "OpenVINO GenAI"
LLAMA_CPP_APART = (
    "llama.cpp, a buffer each"  # of keys and values for each request, where the other shares one
)
TRANSFORMERS, TRANSFORMERS_FP32, CTRANSLATE2 = "transformers", "transformers fp32", "CTranslate2 int8"
SERVERS = (OURS, LLAMA_CPP, LLAMA_CPP_APART, OPENVINO)  # who takes several requests into one step
_MODULES = {
    OURS: "pyllm",
    LLAMA_CPP: "llama_cpp",
    LLAMA_CPP_APART: "llama_cpp",
    OPENVINO: "openvino_genai",
    TRANSFORMERS: "transformers",
    TRANSFORMERS_FP32: "transformers",
    CTRANSLATE2: "ctranslate2",
}
_READ_GGUF = (LLAMA_CPP, LLAMA_CPP_APART, OPENVINO)
_READ_FOLDERS = (TRANSFORMERS, TRANSFORMERS_FP32, CTRANSLATE2)


def able(model: Path) -> list[str]:
    """Who reads `model` and is installed, ours first; says on stderr who is not."""
    readers = [OURS, *(_READ_FOLDERS if model.is_dir() else _READ_GGUF)]
    installed = [name for name in readers if importlib.util.find_spec(_MODULES[name])]
    for name in readers:
        if name not in installed:
            print(f"{name}: not installed (module {_MODULES[name]})", file=sys.stderr)
    return installed


def make_generator(name: str, model: Path, threads: int, largest: int) -> Run:
    """A call that serves a workload of at most `largest` tokens in all, prompts included."""
    if name == OURS:
        return _pyllm(model)
    if name in (LLAMA_CPP, LLAMA_CPP_APART):
        return _llama_cpp(model, threads, largest, unified=name == LLAMA_CPP)
    if name == OPENVINO:
        return _openvino(model, threads)
    if name == CTRANSLATE2:
        return _ctranslate2(model, threads)
    return _transformers(model, "float32" if name == TRANSFORMERS_FP32 else "auto")


def _pyllm(model: Path) -> Run:
    import pyllm

    loaded = pyllm.load(model)

    def run(work: Workload) -> None:
        engine = pyllm.Engine(loaded, max_batch_tokens=MAX_BATCH_TOKENS, max_batch_size=len(work))
        requests = [engine.submit(prompt, max_new_tokens=n, ignore_eos=True) for prompt, n in work]
        while engine.step():
            pass
        _check([request.completion.token_ids for request in requests], work)

    return run


def _llama_cpp(model: Path, threads: int, largest: int, unified: bool) -> Run:
    library: Any = importlib.import_module("llama_cpp")
    silent = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(silent, ctypes.c_void_p())
    library.llama_backend_init()
    network = library.llama_model_load_from_file(str(model).encode(), library.llama_model_default_params())
    sampler = library.llama_sampler_init_greedy()
    batch = library.llama_batch_init(MAX_BATCH_TOKENS, 0, 1)
    contexts: dict[tuple[int, int], Any] = {}  # by the number of requests and the longest of them

    def context_for(work: Workload, longest: int) -> Any:
        settings = library.llama_context_default_params()
        settings.n_ctx = largest if unified else longest * len(work)
        settings.n_batch = settings.n_ubatch = MAX_BATCH_TOKENS
        settings.n_seq_max, settings.kv_unified = len(work), unified
        settings.n_threads = settings.n_threads_batch = threads
        return library.llama_init_from_model(network, settings)

    def run(work: Workload, _kept: Any = silent) -> None:
        longest = max(len(prompt) + count for prompt, count in work)
        key = (len(work), longest)
        if key not in contexts:
            contexts[key] = context_for(work, longest)
        context = contexts[key]
        library.llama_memory_clear(library.llama_get_memory(context), True)
        _check(_serve_with_llama_cpp(library, context, sampler, batch, work), work)

    return run


def _serve_with_llama_cpp(
    library: Any, context: Any, sampler: Any, batch: Any, work: Workload
) -> list[list[int]]:
    """Steps of what decodes, one token each, and as much of the prompts as fits beside; returns the new tokens."""
    texts = [list(prompt) for prompt, _ in work]
    goals = [len(prompt) + count for prompt, count in work]
    stored = [0] * len(work)
    while unfinished := [n for n in range(len(work)) if len(texts[n]) < goals[n]]:
        batch.n_tokens, ready = 0, []
        for n in sorted(unfinished, key=lambda n: len(texts[n]) - stored[n] > 1):  # who decodes comes first
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
    return [text[len(prompt) :] for text, (prompt, _) in zip(texts, work, strict=True)]


def _openvino(model: Path, threads: int) -> Run:
    import numpy as np

    openvino: Any = importlib.import_module("openvino")
    library: Any = importlib.import_module("openvino_genai")
    scheduler = library.SchedulerConfig()
    scheduler.max_num_batched_tokens, scheduler.enable_prefix_caching = MAX_BATCH_TOKENS, False
    options = {"INFERENCE_NUM_THREADS": threads}
    pipeline = library.ContinuousBatchingPipeline(str(model), scheduler, "CPU", options)

    def settings_for(count: int) -> Any:
        settings = library.GenerationConfig()
        settings.max_new_tokens, settings.ignore_eos, settings.do_sample = count, True, False
        return settings

    def run(work: Workload) -> None:
        prompts = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt, _ in work]
        results = pipeline.generate(prompts, [settings_for(count) for _, count in work])
        _check([result.m_generation_ids[0] for result in results], work)

    return run


def _transformers(model: Path, dtype: str) -> Run:
    import torch

    library: Any = importlib.import_module("transformers")
    network = library.AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()

    def run(work: Workload) -> None:
        for prompt, count in work:
            ids = torch.tensor([prompt])
            mask = torch.ones_like(ids)
            length = {"min_new_tokens": count, "max_new_tokens": count}
            made = network.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **length)
            _check([made[0, len(prompt) :].tolist()], [(prompt, count)])

    return run


def _ctranslate2(model: Path, threads: int) -> Run:
    library: Any = importlib.import_module("ctranslate2")
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "int8"
        library.converters.TransformersConverter(str(model)).convert(str(converted), quantization="int8")
        generator = library.Generator(str(converted), compute_type="int8", intra_threads=threads)
        tokens = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))

    def run(work: Workload) -> None:
        for prompt, count in work:
            (result,) = generator.generate_batch(
                [[tokens[token] for token in prompt]],
                min_length=count,
                max_length=count,
                sampling_topk=1,
                include_prompt_in_result=False,
            )
            _check([result.sequences_ids[0]], [(prompt, count)])

    return run


def _check(made: list[Any], work: Workload) -> None:
    """Raises RuntimeError if a request did not get as many tokens as it should."""
    counts = [len(tokens) for tokens in made]
    if counts != [count for _, count in work]:
        raise RuntimeError(f"expected {[count for _, count in work]} new tokens, got {counts}")
