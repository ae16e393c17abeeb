"""What the compiled library asks of its surroundings, and what its level objects leak."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import pyllm
from tests.assets import REPOSITORY

LIBRARIES = sorted(Path(pyllm.__file__).parent.glob("libpyllm_*.so"))
# C functions of torch's stable ABI, the C and C++ run-time libraries; nothing of torch's C++ classes.
ALLOWED = re.compile(
    r"(aoti_torch_|torch_|_ZN?K?(R?S|O?S)|_ZT[ISV]S|_ZTVN10__cxxabiv1|_Zn[aw]m|_Zd[al]Pv|__cxa_|__gxx_|__gmon_start__|"
    r"_ITM_|_Unwind_|__tls_get_addr|__stack_chk_fail|__libc_single_threaded|__errno_location)"
)
LIBC = re.compile(r"@(GLIBC|GLIBCXX|CXXABI|GCC)_")

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) not installed")


def undefined_symbols(library: Path) -> list[str]:
    lines = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    )
    return [line.split()[-1] for line in lines.stdout.splitlines() if line.strip()]


@needs_nm
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_only_the_stable_abi_is_undefined(library: Path) -> None:
    symbols = undefined_symbols(library)
    assert any(s.startswith("aoti_torch_") for s in symbols)
    strange = [s for s in symbols if not (ALLOWED.match(s) or LIBC.search(s))]
    assert not strange, f"symbols outside torch's stable ABI and the C and C++ libraries: {strange}"


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) not installed")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_needs_no_library_of_cuda(library: Path) -> None:
    """Of torch only libtorch_cpu, which every torch has; of CUDA nothing: the run-time is inside."""
    lines = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*?)\]", lines)
    allowed = re.compile(r"lib(torch_cpu|stdc\+\+|gcc_s|c|m|dl|rt|pthread)\.so|ld-linux")
    assert "libtorch_cpu.so" in needed
    assert [name for name in needed if not allowed.match(name)] == []
    assert not re.search("RPATH|RUNPATH", lines)


@needs_nm
def test_no_weak_symbol_leaks_from_a_level() -> None:
    """A weak symbol built for AVX-512 could be chosen by the linker for every level."""
    objects = sorted(REPOSITORY.glob("build/*/CMakeFiles/pyllm_kernels_*.dir/**/*.o"))
    if not objects:
        pytest.skip("no build folder beside the sources")
    for path in objects:
        lines = subprocess.run(
            ["nm", str(path)], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        leaks = [line for line in lines if re.search(r" [Wu] ", line)]
        assert not leaks, f"{path.name}: {leaks}"
