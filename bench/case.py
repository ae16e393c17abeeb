"""One thing to measure: an op on given inputs, forward or forward and backward, ours and plain PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Shapes of SmolLM2-135M over a prompt of 512 tokens: what a reader can run and compare.
TOKENS, WIDTH, FFN_WIDTH, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 512, 576, 1536, 9, 3, 64, 49152
DTYPES = (torch.float32, torch.bfloat16)

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """An op on fixed inputs.

    Attributes:
        name: shape and dtype, for the table.
        dtype: dtype of the arithmetic, which picks the roof.
        ours: our op. plain: the same as PyTorch's users write it. Both are called with `inputs`.
        inputs: where a tensor requires a gradient, the measured call runs forward and backward.
        moved_bytes: bytes a perfect implementation reads and writes. flops: 2 per multiply-add.
        same_result: False where the two draw different random numbers.
        can_compile: False where `plain` is already one fused call of PyTorch.
    """

    name: str
    dtype: torch.dtype
    ours: Callable[..., Any]
    plain: Callable[..., Any]
    inputs: tuple[Any, ...]
    moved_bytes: int
    flops: int
    same_result: bool = True
    can_compile: bool = True

    @property
    def direction(self) -> str:
        return "forward+backward" if self._leaves() else "forward"

    def calls(self) -> dict[str, Call]:
        """Contender -> call without arguments: pyllm, torch, and torch.compile where it adds something."""
        contenders = {"pyllm": self.ours, "torch": self.plain}
        if self.can_compile:
            contenders["torch.compile"] = torch.compile(self.plain)
        return {name: self._call(function) for name, function in contenders.items()}

    def results(self, function: Callable[..., Any]) -> list[Tensor]:
        """Outputs, then gradients, of one contender; for tests."""
        outputs = _flat(function(*self.inputs))
        leaves = self._leaves()
        return [*outputs, *(torch.autograd.grad(outputs, leaves, _ones(outputs)) if leaves else ())]

    def _leaves(self) -> list[Tensor]:
        return [x for x in self.inputs if isinstance(x, Tensor) and x.requires_grad]

    def _call(self, function: Callable[..., Any]) -> Call:
        if self._leaves():
            return functools.partial(self.results, function)
        return torch.no_grad()(functools.partial(function, *self.inputs))


def _flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _ones(outputs: Sequence[Tensor]) -> list[Tensor]:
    return [torch.ones_like(output) for output in outputs]


def randn(*shape: int, dtype: torch.dtype, grad: bool = False) -> Tensor:
    """Fixed pseudo-random values of that shape; a leaf that asks for a gradient where `grad`."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad)


def short(dtype: torch.dtype) -> str:
    """bf16, fp32: the names the table uses."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
