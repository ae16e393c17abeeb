"""The C++ tests of the kernels under sanitizers: overruns, undefined behaviour, races. `make sanitize` runs longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.sanitize import OPS, SANITIZERS, build, run, tool

needs_tools = pytest.mark.skipif(
    not all(tool(name) for name in ("cmake", "ninja", "c++")),
    reason="cmake, ninja or c++ not installed",
)


def assert_fixed_cases_pass(program: Path) -> None:
    assert run(str(program)).split() == [word for op in OPS for word in (op, "ok")]


@needs_tools
def test_native(tmp_path: Path) -> None:
    assert_fixed_cases_pass(build("address", tmp_path))


@needs_tools
@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_native_on_random_cases(sanitizer: str, tmp_path: Path) -> None:
    program = build(sanitizer, tmp_path)
    assert_fixed_cases_pass(program)
    assert "random cases ok" in run(str(program), "20")
    if sanitizer == "thread":
        with pytest.raises(RuntimeError, match="data race"):
            run(str(program), "race")
