"""The loss of a training step without its logits: the head defers, the model's own loss code runs on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from pyllm.integrations.transformers.deferred_logits import DeferredLogits

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_deferring: ContextVar[torch.nn.Module | None] = ContextVar("deferring", default=None)


@contextmanager
def _defer(head: torch.nn.Module) -> Iterator[None]:
    token = _deferring.set(head)
    try:
        yield
    finally:
        _deferring.reset(token)


def why_not(model: torch.nn.Module) -> str | None:
    """Why this model's loss stays as it is, or None."""
    if "labels" not in inspect.signature(type(model).forward).parameters:
        return "its forward takes no labels"
    head = output_head(model)
    if head is None:
        return "it has no output embeddings"
    if type(head) is not torch.nn.Linear:
        return f"its output embeddings are {type(head).__name__}, not Linear"
    return None


def output_head(model: torch.nn.Module) -> torch.nn.Module | None:
    """The projection from hidden states to logits, if transformers knows one."""
    get: Callable[[], Any] | None = getattr(model, "get_output_embeddings", None)
    return None if get is None else get()


def loss_forward(model: torch.nn.Module) -> Callable[..., Any]:
    """The model's forward, which lets its head defer where a loss is trained on."""
    original = type(model).forward
    place = list(inspect.signature(original).parameters).index("labels") - 1

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        labels = kwargs.get("labels", args[place] if len(args) > place else None)
        if (
            labels is None
            or not self.training
            or not torch.is_grad_enabled()
            or torch.compiler.is_compiling()
        ):
            return original(self, *args, **kwargs)
        with _defer(self.get_output_embeddings()):
            return original(self, *args, **kwargs)

    return forward


def head_forward(project: Callable[..., Tensor]) -> Callable[..., Any]:
    """A head's forward: deferred where its model asks for it, else `project(self, x)`."""

    def forward(self: torch.nn.Linear, input: Tensor) -> Any:
        if not torch.compiler.is_compiling() and _deferring.get() is self and _may_defer(self, input):
            return DeferredLogits.of(input, self)
        return project(self, input)

    return forward


def _may_defer(head: torch.nn.Linear, input: Tensor) -> bool:
    """Nobody hooks into the head (FSDP gives its weight back after it ran), shards its weight or transforms calls."""
    return (
        input.is_cpu
        and type(head.weight) in (Tensor, torch.nn.Parameter)
        and not any(vars(head)[hooks] for hooks in _HOOKS)
        and not torch._C._are_functorch_transforms_active()
    )
