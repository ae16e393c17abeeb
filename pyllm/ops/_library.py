"""Loads the compiled operators and registers what torch expects from Python: fake kernels, autograd, autocast.

Where the library is missing (a source tree without a compiler) or a device has no kernels of ours, the public functions
run their plain-torch reference, with one warning.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

_PATH = Path(__file__).resolve().parent.parent / "libpyllm_cpu.so"
_load_error: str | None = None
try:
    torch.ops.load_library(str(_PATH))
except OSError as error:
    _load_error = str(error)

LOADED = _load_error is None
_fragment = torch.library.Library("pyllm", "FRAGMENT")
_warned: set[str] = set()

_KERNEL_DEVICES = ("cpu", "meta")
_CUDA_PATH = _PATH.with_name("libpyllm_cuda.so")
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _load_cuda() -> str | None:
    """Loads the CUDA kernels if a GPU is there; otherwise, or if they cannot be loaded, returns why not."""
    if not LOADED:
        return _load_error
    if not torch.cuda.is_available():
        return "no device" if torch.version.cuda else "this torch was built without CUDA"
    if not _CUDA_PATH.exists():
        return "pyllm was built without CUDA (no nvcc was found, or PYLLM_CUDA=0)"
    try:
        torch.ops.load_library(str(_CUDA_PATH))
    except OSError as error:  # a torch before 2.13, most likely
        return str(error)
    return None


_cuda_error = _load_cuda()


def why_no_cuda() -> str | None:
    """Why there are no CUDA kernels, None where they are loaded."""
    return _cuda_error


def cuda_ops() -> tuple[str, ...]:
    """Names of the operators that have CUDA kernels here."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
    return tuple(sorted(name.removeprefix("pyllm::") for name in names if name.startswith("pyllm::")))


def why_not_loaded() -> str | None:
    """The loader's message if the compiled operators are missing, otherwise None."""
    return _load_error


def has_kernels(x: torch.Tensor, cuda: bool = False) -> bool:
    """True if compiled kernels serve `x`'s device; otherwise warns once and the caller runs its reference.

    So does the caller, without a warning, under torch.func's transforms: they differentiate and batch the reference.
    `cuda` says that the op's CUDA kernels, if they are loaded, can do what was asked; none of them takes doubles.
    """
    if torch._C._are_functorch_transforms_active():
        return False
    device = x.device.type
    if LOADED and (device in _KERNEL_DEVICES or (device == "cuda" and cuda and runs_on_cuda(x.dtype))):
        return True
    key = device if LOADED else "library"
    if key not in _warned:
        _warned.add(key)
        reason = (
            f"no kernels for {'some calls on ' if _cuda_error is None else ''}device {device!r}"
            if LOADED
            else f"compiled operators not loaded ({_load_error})"
        )
        warnings.warn(f"pyllm.ops: {reason}; running the plain PyTorch reference", stacklevel=3)
    return False


def runs_on_cuda(dtype: torch.dtype) -> bool:
    """True if the CUDA kernels are loaded and take this dtype."""
    return _cuda_error is None and dtype is not torch.float64


def runs_kernels(x: torch.Tensor, cuda: bool = False) -> bool:
    """`has_kernels`, with a short way for the common case: a call of a small op takes no longer than its checks."""
    return (LOADED and x.is_cpu and not torch._C._are_functorch_transforms_active()) or has_kernels(x, cuda)


def runs_at_once(x: torch.Tensor) -> bool:
    """True for a plain eager call on the CPU: the kernel may run first and the checks only if it complains."""
    return LOADED and x.is_cpu and plain_eager()


def call(op: Callable[..., Any], *args: Any) -> Any:
    """Runs `op`, past its autograd kernel if no gradient is wanted: that kernel is Python and costs 10 us a call."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return op(*args)
    return call_below_autograd(op, *args)


def call_below_autograd(op: Callable[..., Any], *args: Any) -> Any:
    """Runs `op` without its autograd kernel, which is Python and costs a small op several times its own time."""
    if torch.is_inference_mode_enabled():
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def register_fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: registers a shape function for `pyllm::name`, if the operators are loaded.

    torch also calls it for tensors on the meta device beside others, whose result would then be memory nobody wrote:
    that is refused. Single numbers may lie anywhere.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            metas = {x.is_meta for x in args if isinstance(x, torch.Tensor) and x.dim() > 0}
            if len(metas) > 1:
                raise RuntimeError(f"pyllm::{name}: some tensors are on the meta device, others are not")
            return function(*args, **kwargs)

        if LOADED:
            torch.library.register_fake(f"pyllm::{name}")(checked)
        return function

    return decorate


def register_autograd(name: str, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
    """Registers the backward of `pyllm::name`, if the operators are loaded."""
    if LOADED:
        torch.library.register_autograd(f"pyllm::{name}", backward, setup_context=setup_context)


def plain_eager() -> bool:
    """True where a call is what it seems: nobody traces, transforms or casts it."""
    return not (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
    )


def register_autocast(name: str, *, lower: bool, keep: tuple[int, ...] = ()) -> None:
    """Gives `pyllm::name` an autocast rule.

    lower=True casts floating-point tensors to the autocast dtype (products of matrices); lower=False casts them to the
    dtype of the first argument (norms and activations, which follow their input). The arguments at the places in `keep`
    stay as they are.
    """
    if not LOADED:
        return
    for device, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        _fragment.impl(name, _autocast_kernel(name, device, key, lower, keep), key)


def _autocast_kernel(
    name: str, device: str, key: str, lower: bool, keep: tuple[int, ...]
) -> Callable[..., Any]:
    op = getattr(torch.ops.pyllm, name).default
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def kernel(*args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device) if lower else args[0].dtype
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return op(*(arg if i in keep else _cast(arg, dtype) for i, arg in enumerate(args)))

    return kernel


def _cast(value: Any, dtype: torch.dtype) -> Any:
    eligible = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.to(dtype) if eligible else value


def check_dtype(op: str, argument: str, x: torch.Tensor) -> None:
    """Raises TypeError if `x` is not of a dtype the ops compute in."""
    if x.dtype not in _DTYPES:
        raise TypeError(f"{op}: {argument} must be float64, float32, bfloat16 or float16, got {x.dtype}")


@contextlib.contextmanager
def forced_isa(level: str) -> Iterator[None]:
    """Runs ops at instruction-set level `level` inside the block (tests and benchmarks; not thread-safe).

    Raises:
        RuntimeError: the level is unknown or the machine lacks it.
    """
    previous = torch.ops.pyllm.active_isa()
    torch.ops.pyllm.force_isa(level)
    try:
        yield
    finally:
        torch.ops.pyllm.force_isa(previous)
