"""What runs where on this machine, as data and as a table."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyllm import __version__

if TYPE_CHECKING:
    from rich.table import Table

_X86_LEVELS = ("scalar", "avx2", "avx512", "amx")
_ARM_LEVELS = ("scalar", "neon")


def _platform() -> str:
    return " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip()


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Information:
    """The facts behind `pyllm.info()`; printing it shows a table.

    Attributes:
        pyllm, python, torch: versions; torch is None where it is not installed.
        platform: system, processor architecture and C library.
        kernels: "loaded", or why the compiled operators are missing.
        machine_isa: highest instruction-set level the processor and the system grant; None without kernels.
        extensions: what the processor adds inside a level, probed one by one: VNNI, BF16, AMX.
        active_isa: level the ops run at (`PYLLM_ISA` lowers it), or what is wrong with PYLLM_ISA.
        ops: op -> level of the kernel it runs, "reference" where plain PyTorch runs instead.
        threads: size of torch's pool; cpus: processors this process may use.
        cuda: the devices, or why there are none.
    """

    torch: str | None
    kernels: str
    cuda: str
    machine_isa: str | None = None
    active_isa: str | None = None
    extensions: tuple[str, ...] = ()
    ops: dict[str, str] = field(default_factory=dict)
    threads: int | None = None
    pyllm: str = __version__
    python: str = field(default_factory=platform.python_version)
    platform: str = field(default_factory=_platform)
    cpus: int = field(default_factory=_available_cpus)

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(show_header=False, title=f"pyllm {self.pyllm}", title_justify="left")
        table.add_column(style="bold")
        table.add_column()
        table.add_row("python", f"{self.python} on {self.platform}")
        table.add_row("torch", self.torch or "not installed: the tokenizer works, everything else needs it")
        table.add_row("kernels", self.kernels)
        table.add_row("instruction set", _isa_line(self.machine_isa, self.active_isa))
        table.add_row("extensions", ", ".join(self.extensions) or "-")
        for level in dict.fromkeys(self.ops.values()):
            table.add_row(f"ops at {level}", ", ".join(op for op in self.ops if self.ops[op] == level))
        table.add_row("threads", f"{self.threads or '-'} on {self.cpus} CPUs")
        table.add_row("cuda", self.cuda)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip()


def _isa_line(machine: str | None, active: str | None) -> str:
    if machine is None:
        return "-"
    if active not in (*_X86_LEVELS, *_ARM_LEVELS):
        return f"{active}; the machine has {machine}"
    return (
        f"{active} (all this machine has)" if active == machine else f"{active} (the machine has {machine})"
    )


def info() -> Information:
    """Versions, instruction-set levels, the kernel each op runs, threads and devices of this process.

    Works without torch and without compiled operators, and never raises for either.
    """
    try:
        return _with_torch()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return Information(torch=None, kernels="not loaded: they need torch", cuda="unknown without torch")


def _with_torch() -> Information:
    import torch

    from pyllm.ops import _library

    reason = _library.why_not_loaded()
    active = _active_isa() if _library.LOADED else None
    return Information(
        torch=torch.__version__,
        kernels="loaded" if reason is None else f"not loaded, plain PyTorch runs instead: {reason}",
        machine_isa=torch.ops.pyllm.machine_isa() if _library.LOADED else None,
        active_isa=active,
        extensions=_extensions() if _library.LOADED else (),
        ops=_op_levels(active),
        threads=torch.get_num_threads(),
        cuda=_cuda(),
    )


def _active_isa() -> str:
    import torch

    try:
        return torch.ops.pyllm.active_isa()
    except RuntimeError as error:
        return str(error).splitlines()[0]


def _extensions() -> tuple[str, ...]:
    import torch

    return tuple(filter(None, torch.ops.pyllm.extensions().split(",")))


def _op_levels(active: str | None) -> dict[str, str]:
    """op -> the highest level at or below `active` that the op was compiled for."""
    import torch

    from pyllm.ops import _library

    if not _library.LOADED:
        import pyllm.ops

        return dict.fromkeys(pyllm.ops.__all__, "reference")
    ladder = _ARM_LEVELS if active == "neon" else _X86_LEVELS
    if active not in ladder:  # PYLLM_ISA is wrong: every op refuses to run
        return {}
    allowed = ladder[: ladder.index(active) + 1]
    compiled = (entry.split("=") for entry in torch.ops.pyllm.compiled_levels().split(":"))
    return {
        op: next(level for level in reversed(allowed) if level in ["scalar", *levels.split(",")])
        for op, levels in compiled
    }


def _cuda() -> str:
    import torch

    from pyllm.ops import _library

    if not torch.cuda.is_available():
        return "no device" if torch.version.cuda else "this torch was built without CUDA"
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    reason = _library.why_no_cuda()
    if reason is not None:
        return f"{names} (runs plain PyTorch: {reason})"
    return f"{names} (kernels for {', '.join(_library.cuda_ops())}; plain PyTorch for the rest)"
