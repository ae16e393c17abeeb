"""One thing to measure: an op on given inputs, ours and its rivals, and what the machine must do for it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Shapes of SmolLM2-135M over a prompt of 512 tokens: what a reader can run and compare.
TOKENS, WIDTH, FFN_WIDTH, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 512, 576, 1536, 9, 3, 64, 49152
DTYPES = (torch.float32, torch.bfloat16)
OURS = "pyllm"
# Inputs read once from memory, as weights and caches of a whole model are, rotate through this much.
ROTATED_BYTES = 256 << 20

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """An op on fixed inputs, made when it is measured.

    Attributes:
        name: shape and dtype, for the table.
        dtype: dtype of the arithmetic, which picks the roof.
        direction: forward, forward+backward, dX or dW.
        moved_bytes: bytes a perfect implementation reads and writes. flops: 2 per multiply-add that counts: masked
            pairs do not.
        build: makes the inputs; returns contender -> call without arguments, ours under `OURS`. All calls return
            tensors that mean the same, in the same order.
        same_result: False where the contenders draw different random numbers.
        quick: False for rows of the long form only.
    """

    name: str
    dtype: torch.dtype
    direction: str
    moved_bytes: int
    flops: int
    build: Callable[[], dict[str, Call]]
    same_result: bool = True
    quick: bool = True


def calls(contenders: Mapping[str, Callable[..., Any]], inputs: Sequence[Any]) -> dict[str, Call]:
    """Each contender on the same inputs; forward and backward where one of them requires a gradient."""
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    if leaves:
        with torch.no_grad():
            outputs = tensors(contenders[OURS](*inputs))
        grads = [randn(*y.shape, dtype=y.dtype, seed=-1) for y in outputs]
        return {
            name: functools.partial(_with_gradients, f, inputs, leaves, grads)
            for name, f in contenders.items()
        }
    return {name: torch.no_grad()(functools.partial(f, *inputs)) for name, f in contenders.items()}


def _with_gradients(
    function: Callable[..., Any], inputs: Sequence[Any], leaves: list[Tensor], grads: list[Tensor]
) -> list[Tensor]:
    outputs = tensors(function(*inputs))
    return [*outputs, *torch.autograd.grad(outputs, leaves, grads)]


def rotating(calls_on_copies: Sequence[dict[str, Call]]) -> dict[str, Call]:
    """Each contender walks round the copies, one further with every call, so that none is found in a cache."""
    rounds = {name: itertools.cycle([copy[name] for copy in calls_on_copies]) for name in calls_on_copies[0]}
    return {name: functools.partial(_next_call, turn) for name, turn in rounds.items()}


def _next_call(turn: itertools.cycle[Call]) -> Any:
    return next(turn)()


def copies_of(size_bytes: int) -> int:
    """How many inputs of that size rotate."""
    return max(1, -(-ROTATED_BYTES // size_bytes))


def tensors(outputs: Any) -> list[Tensor]:
    """An op's outputs as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def randn(*shape: int, dtype: torch.dtype, grad: bool = False, seed: int = 0) -> Tensor:
    """Fixed pseudo-random values of that shape; a leaf that asks for a gradient where `grad`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad)


def short(dtype: torch.dtype) -> str:
    """bf16, fp32: the names the table uses."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def direction(grad: bool) -> str:
    """The name of a pass."""
    return "forward+backward" if grad else "forward"
