"""Puts an adapter of ours in the place of another project's package, for a process that runs that project's tests."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from types import FunctionType
from typing import Any


def adapt(package: str) -> None:
    """From now on `import PACKAGE` gives our adapter of that name.

    Their tests lie in a package `tests` too, which has to make room.
    """
    adapter = importlib.import_module(f"tests.tokenizers.rivals.{package}_adapter")
    own = adapter.__name__
    adapter.install()
    for value in vars(adapter).values():  # so that pickles find them
        if isinstance(value, (type, FunctionType)) and value.__module__ == own:
            value.__module__ = package
    sys.modules[package] = adapter
    for module in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[module]


def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """Runs tests that are coroutines; other projects have a plugin for them."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
