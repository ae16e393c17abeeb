"""Attributes set so that they can be taken back: forwards of single modules, functions of modules, settings."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch

_MISSING = object()
# Weak, so that a patched model can be freed: (owner, attribute) -> what was there.
_set: list[tuple[Callable[[], Any], str, Any]] = []


def set_attribute(owner: Any, name: str, value: Any) -> None:
    """Sets `owner.name`, in its own dictionary, until `restore_all`."""
    before = vars(owner).get(name, _MISSING)
    _set.append((weakref.ref(owner), name, before))
    setattr(owner, name, value)


def set_forward(module: torch.nn.Module, forward: Callable[..., Any]) -> None:
    """Gives one module another forward; hooks, state, class and deep copies stay what they are.

    Named `forward` whatever it was called, so that a pickled module finds its class's own forward when it is loaded.
    """
    forward = functools.wraps(type(module).forward)(forward)
    forward.__dict__["pyllm_patch"] = True
    set_attribute(module, "forward", types.MethodType(forward, module))


def is_patched(module: torch.nn.Module) -> bool:
    """Whether the module has a forward of ours."""
    return hasattr(vars(module).get("forward"), "pyllm_patch")


def has_own_forward(module: torch.nn.Module) -> bool:
    """Whether somebody gave this one module a forward (accelerate's device hooks, `kernels`)."""
    return "forward" in vars(module)


def restore_all() -> None:
    """Undoes every `set_attribute`, the last first."""
    while _set:
        reference, name, before = _set.pop()
        owner = reference()
        if owner is None:
            continue
        if before is _MISSING:
            if name in vars(owner):
                delattr(owner, name)
        else:
            setattr(owner, name, before)
