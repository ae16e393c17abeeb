"""Who computes what in a step: decoding texts, chunks of prompts, new ones; and who makes room.

    step, at most max_tokens    | d d d d | c c c c c c c | n n n |
                                 decoding   rest of prompts  new ones, while rows, tokens and pages last

A text that needs a page where there is none takes those of the youngest, which starts over later: its tokens are kept,
their keys and values are computed anew.
"""

from __future__ import annotations

import bisect
from typing import Protocol

from pyllm.generation.request import Request


class Store(Protocol):
    """Where texts lie, as the scheduler sees it; see `PageStore`."""

    whole_prompts: bool

    def has_room(self, request: Request) -> bool: ...
    def is_in_flight(self, request: Request) -> bool: ...
    def adopt(self, request: Request) -> None: ...
    def reserve(self, request: Request, tokens: int) -> bool: ...
    def release(self, request: Request) -> None: ...


class Scheduler:
    """Waiting and running requests, both in the order of their arrival.

    Args:
        max_tokens: of a step. max_rows: requests that run at once.

    Attributes:
        preemptions: how often a request had to make room.
    """

    def __init__(self, store: Store, max_tokens: int, max_rows: int) -> None:
        self._store, self._max_tokens, self._max_rows = store, max_tokens, max_rows
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.preemptions = 0
        self._arrivals = 0

    def add(self, request: Request) -> None:
        self._arrivals += 1
        request.arrival = self._arrivals
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forgets a request and gives its memory back."""
        if request in self.running:
            self.running.remove(request)
            self._store.release(request)
        elif request in self.waiting:
            self.waiting.remove(request)

    def plan(self) -> list[tuple[Request, int]]:
        """The next step: requests, and how many of its missing tokens each stores. Their memory is reserved."""
        chunks: dict[Request, int] = {}
        before = self.preemptions
        for request in [request for request in self.running if not request.missing]:
            self._preempt(
                request
            )  # a step was interrupted between storing its tokens and choosing the next one
        for request in sorted(self.running, key=lambda request: (request.missing > 1, request.arrival)):
            count = self._count(request, chunks)
            if count and request in self.running and self._make_room(request, count, chunks):
                chunks[request] = count
        if self.preemptions == before:
            self._admit(chunks)
        return list(chunks.items())

    def _count(self, request: Request, chunks: dict[Request, int]) -> int:
        """How many tokens of a request the step has room for."""
        left = self._max_tokens - sum(chunks.values())
        if self._store.whole_prompts and request.missing > left:
            return 0 if chunks else request.missing
        return min(left, request.missing)

    def _make_room(self, request: Request, count: int, chunks: dict[Request, int]) -> bool:
        """Reserves memory, if need be of younger requests; False where the request is itself the youngest."""
        while not self._store.reserve(request, request.stored + count):
            victim = self.running[-1]
            chunks.pop(victim, None)
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._store.release(request)
        bisect.insort(self.waiting, request, key=lambda waiting: waiting.arrival)
        self.preemptions += 1

    def _admit(self, chunks: dict[Request, int]) -> None:
        """Lets waiting requests in. One whose beginning a running one is about to store waits for it."""
        for request in list(self.waiting):
            if len(self.running) == self._max_rows or sum(chunks.values()) >= self._max_tokens:
                return
            if self._store.is_in_flight(request):
                continue
            if not self._store.has_room(request):
                return
            self._store.adopt(request)
            count = self._count(request, chunks)
            if not count or not self._store.reserve(request, request.stored + count):
                self._store.release(request)
                return
            self.waiting.remove(request)
            bisect.insort(self.running, request, key=lambda running: running.arrival)
            chunks[request] = count
