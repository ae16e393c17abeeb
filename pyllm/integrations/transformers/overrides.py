"""Attributes and entries set so that they can be taken back: forwards of modules, functions, settings, mappings."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch

_MISSING = object()
_undo: list[Callable[[], None]] = []


def set_attribute(owner: Any, name: str, value: Any) -> None:
    """Sets `owner.name`, in its own dictionary, until `restore_all`."""
    before = vars(owner).get(name, _MISSING)
    # Weak, so that a patched model can be freed.
    _undo.append(functools.partial(_restore_attribute, weakref.ref(owner), name, before))
    setattr(owner, name, value)


def set_item(mapping: dict[Any, Any], key: Any, value: Any) -> None:
    """Replaces `mapping[key]`, which is there, until `restore_all`."""
    _undo.append(functools.partial(mapping.__setitem__, key, mapping[key]))
    mapping[key] = value


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
    """Undoes every `set_attribute` and `set_item`, the last first."""
    while _undo:
        _undo.pop()()


def _restore_attribute(reference: Callable[[], Any], name: str, before: Any) -> None:
    owner = reference()
    if owner is None:
        return
    if before is not _MISSING:
        setattr(owner, name, before)
    elif name in vars(owner):
        delattr(owner, name)
