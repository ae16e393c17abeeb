"""The engine: many requests, one decode loop.

    submit --> waiting --> running --> finished            scheduler.py   who computes what in a step
                  ^           |                            page_store.py  where keys and values lie
                  +--preempt--+                            choice.py      from hidden states to tokens

    step: plan -> one pass of the network over all chunks -> a token for each text whose tokens are all stored

A request's tokens and log-probabilities are a function of its prompt, its options and its seed: not of its neighbours,
of the chunks its prompt was cut into, of pages that were shared, or of having been preempted.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from pyllm.generation.choice import TokenChooser
from pyllm.generation.completion import Completion
from pyllm.generation.config import GenerationConfig, with_options
from pyllm.generation.own_cache_store import OwnCacheStore
from pyllm.generation.page_store import PageStore
from pyllm.generation.prompts import Prompt, check_prompts, encode_prompt, encode_prompts
from pyllm.generation.request import Request, request_seed
from pyllm.generation.scheduler import Scheduler
from pyllm.models import EndlessWindow, Transformer
from pyllm.ops.quantized_kv import KV_QUANTIZATIONS

# Of an endless text: beyond, float32 no longer tells rotary angles of neighbouring positions apart well.
MOST_TOKENS = 1 << 20


class Generator(Protocol):
    """What an engine needs of a model; `pyllm.Model` has it."""

    @property
    def network(self) -> Any: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def eos_token_ids(self) -> Collection[int]: ...


@dataclass(frozen=True)
class Statistics:
    """How an engine stands.

    Attributes:
        running, waiting: requests. pages, pages_in_use: of keys and values, over all groups of layers.
        reused_tokens: prompt tokens that were not computed, because an earlier text began alike.
        preemptions: how often a request had to start over.
    """

    running: int
    waiting: int
    pages: int
    pages_in_use: int
    reused_tokens: int
    preemptions: int


class Engine:
    """Completes many prompts together, as they come (Yu et al., "Orca", 2022; Kwon et al., "PagedAttention", 2023).

        engine = pyllm.Engine(model)
        request = engine.submit("Once upon a time", max_new_tokens=100)
        for piece in request:
            print(piece, end="", flush=True)

    Requests join and leave at any step. Texts that begin alike share pages of keys and values, also with requests that
    have ended. A prompt is stored in chunks, between which others decode. Calls may come from several threads.

    Args:
        model: a `pyllm.Model`.
        max_batch_tokens: most tokens that a step stores.
        max_batch_size: most requests that run at once; the rest wait.
        kv_cache_bytes: memory for keys and values, lent by the system as it is used. Where it runs out the youngest
            request starts over later. None: 2 GiB, or what a text of the model's whole context needs if that is more.
        page_size: tokens of a page: 16, 32, 64, 128 or 256. Whole pages are shared.
        kv_quantization: None: keys and values in the network's dtype. "int8", "int4": codes, see
            `pyllm.ops.PagedKVCache`; more texts fit, tokens differ from those without.
        recent_tokens: None: tokens see all of their text. Otherwise the newest so many and the first `sink_tokens`
            alone, as if there were nothing between (StreamingLLM), so that a text may go on beyond the model's
            context, in constant memory.
        sink_tokens: see there.

    Raises:
        ValueError: an argument is out of range. TypeError: the model does not predict tokens.
    """

    def __init__(
        self,
        model: Generator,
        *,
        max_batch_tokens: int = 512,
        max_batch_size: int = 32,
        kv_cache_bytes: int | None = None,
        page_size: int = 64,
        kv_quantization: str | None = None,
        recent_tokens: int | None = None,
        sink_tokens: int = 4,
    ) -> None:
        limits = {"max_batch_tokens": max_batch_tokens, "max_batch_size": max_batch_size}
        if kv_cache_bytes is not None:
            limits["kv_cache_bytes"] = kv_cache_bytes
        for name, value in limits.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        self.network, self.tokenizer = model.network, model.tokenizer
        if kv_quantization not in (None, *KV_QUANTIZATIONS):
            raise ValueError(
                f"kv_quantization must be None or one of {KV_QUANTIZATIONS}, got {kv_quantization!r}"
            )
        if kv_quantization is not None and not isinstance(self.network, Transformer):
            raise ValueError(
                f"kv_quantization needs a decoder, got a {self.network.config.model_type} and {kv_quantization!r}"
            )
        if not hasattr(self.network, "lm_head_weight"):
            raise TypeError(f"model must predict tokens, got a {self.network.config.model_type}")
        endless = None if recent_tokens is None else EndlessWindow(sink_tokens, recent_tokens)
        self._longest = self.network.config.max_position_embeddings
        if endless is not None:
            if not isinstance(self.network, Transformer):
                raise ValueError(f"recent_tokens must be None for a {self.network.config.model_type}")
            endless.check(self.network)
            self._longest = MOST_TOKENS
        self._eos = tuple(model.eos_token_ids)
        self._store: Any = (
            PageStore(
                self.network,
                kv_cache_bytes,
                page_size,
                kv_quantization,
                max_batch_tokens,
                max_batch_size,
                endless,
            )
            if isinstance(self.network, Transformer)
            else OwnCacheStore(self.network)
        )
        self._scheduler = Scheduler(self._store, max_batch_tokens, max_batch_size)
        self._chooser = TokenChooser(self.network)
        self._lock, self._cancelled = threading.RLock(), set[Request]()

    def submit(self, prompt: Prompt, config: GenerationConfig | None = None, **options: Any) -> Request:
        """Adds a request; nothing is computed yet.

        Args:
            prompt: text, token ids, or chat messages, see `pyllm.Model.generate`.
            config, options: as there; one completion per request, without beam search.

        Raises:
            ValueError, TypeError: prompt or options do not fit the model, or `kv_cache_bytes` may not be enough.
        """
        config = with_options(config, options)
        for name in ("num_beams", "num_return_sequences"):
            if getattr(config, name) != 1:
                raise ValueError(f"{name} must be 1 for a request, got {getattr(config, name)}")
        ids = encode_prompt(prompt, self.tokenizer, self.network.config.bos_token_id)
        check_prompts(self.network, [ids], config, self.tokenizer, self._longest)
        return self._submit(ids, config, 0)

    def generate(
        self, prompts: Prompt | Sequence[Prompt], config: GenerationConfig | None = None, **options: Any
    ) -> list[Completion]:
        """Completes prompts and waits for all; arguments, result and errors as in `pyllm.Model.generate`.

        Beam search is not available here.
        """
        config = with_options(config, options)
        if config.num_beams != 1:
            raise ValueError(f"num_beams must be 1 in an engine, got {config.num_beams}")
        ids = encode_prompts(prompts, self.tokenizer, self.network.config.bos_token_id)
        check_prompts(self.network, ids, config, self.tokenizer, self._longest)
        requests = [
            self._submit(prompt, config, copy)
            for prompt in ids
            for copy in range(config.num_return_sequences)
        ]
        try:
            return [request.result() for request in requests]
        finally:
            for request in requests:
                request.cancel()

    def step(self) -> bool:
        """One pass of the network; a token for each running request whose prompt is stored. False if there is nothing
        to do.
        """
        with self._lock, torch.inference_mode():
            self._drop_cancelled()
            chunks = self._scheduler.plan()
            if not chunks:
                return False
            hidden = self._store.forward(chunks)
            for request, count in chunks:
                request.stored += count
                self._store.commit(request)
            ready = [number for number, (request, _) in enumerate(chunks) if not request.missing]
            if ready:
                requests = [chunks[number][0] for number in ready]
                self._chooser.choose(requests, hidden if len(ready) == len(chunks) else hidden[ready])
                for request in requests:
                    if request.finished:
                        self._scheduler.remove(request)
            self._drop_cancelled()
            return True

    @property
    def statistics(self) -> Statistics:
        """How the engine stands now."""
        scheduler, pools = self._scheduler, self._store.pools
        return Statistics(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            pages=sum(pool.count for pool in pools),
            pages_in_use=sum(pool.in_use for pool in pools),
            reused_tokens=self._store.reused_tokens,
            preemptions=scheduler.preemptions,
        )

    def work_for(self, request: Request) -> None:
        """A step, unless `request` has ended meanwhile: other threads may be at work for it too."""
        with self._lock:
            if not request.finished:
                self.step()

    def cancel(self, request: Request) -> None:
        """See `Request.cancel`."""
        if request.finished:
            return
        self._cancelled.add(request)
        # During a step the thread that runs it does the rest.
        if self._lock.acquire(blocking=False):
            try:
                self._drop_cancelled()
            finally:
                self._lock.release()

    @cached_property
    def worker(self) -> ThreadPoolExecutor:
        """The thread in which asyncio's steps run."""
        return ThreadPoolExecutor(1, "pyllm-engine")

    def _submit(self, prompt: list[int], config: GenerationConfig, copy: int) -> Request:
        limit = min(config.max_new_tokens, self._longest - len(prompt))
        request = Request(self, prompt, config, request_seed(config, copy), self._eos, limit)
        self._store.check(request)
        with self._lock:
            self._scheduler.add(request)
        return request

    def _drop_cancelled(self) -> None:
        while self._cancelled:
            request = self._cancelled.pop()
            self._scheduler.remove(request)
            self._chooser.flush()
            request.end("cancelled")
