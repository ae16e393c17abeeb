"""Where a training step's time goes: operator by operator, as a share of the step and of what the machine can do.

Times are torch.profiler's self times of one step after a warm one; "Python and autograd" is what no operator accounts
for. Work is counted from the operators' input shapes: 2 operations per multiply-add that the mathematics asks for (an
attention mask's hidden half does not count, nor do products that a backward makes again), bytes that must be read and
written once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..roofline import MEMORY, Roofline, measure_roofline  # noqa: TID252  # the package has two names
from .contenders import OURS, Step, make_step, shape_of

REST = "Python and autograd"
_WRAPPER = "GeneratedBackwardFor_pyllm_"
Shapes = Sequence[Sequence[int]]
_ELEMENTWISE = {  # operator -> passes over its first tensor, reads and writes
    "rms_norm": 2,
    "add_rms_norm": 4,
    "rms_norm_backward": 4,
    "layer_norm": 2,
    "add_layer_norm": 4,
    "layer_norm_backward": 4,
    "glu": 3,
    "glu_backward": 5,
}


@dataclass(frozen=True)
class Part:
    """One kind of work of a step: its calls, seconds, operations and bytes (0: not counted)."""

    name: str
    calls: int
    seconds: float
    flops: float = 0.0
    moved_bytes: float = 0.0

    def share_of_roof(self, roofs: Roofline, dtype: torch.dtype) -> float | None:
        """The least time its work could take over the time it took; None where nothing is counted."""
        if not self.flops and not self.moved_bytes:
            return None
        return roofs.limit(int(self.moved_bytes), int(self.flops), dtype)[0] / self.seconds


@dataclass(frozen=True)
class StepProfile:
    """A step of `seconds` (`plain_seconds` without the profiler), its parts, and the roofs measured beside it."""

    title: str
    precision: str
    seconds: float
    plain_seconds: float
    parts: list[Part]
    roofs: Roofline


def measure(model: str, precision: str, checkpointing: str, layers: int | None, threads: int) -> StepProfile:
    """Profiles one step of ours in this process."""
    torch.set_num_threads(threads)
    shape = shape_of(model, layers)
    step = make_step(OURS, shape, precision, checkpointing)
    step()
    plain = _seconds(step)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        seconds = _seconds(step)
    rows = profiler.key_averages(group_by_input_shape=True)
    itemsize = 4 if precision == "fp32" else 2
    tokens = shape.rows * shape.tokens
    parts = _merged([_part(row, tokens, itemsize) for row in rows if row.self_cpu_time_total > 0])
    rest = seconds - sum(part.seconds for part in parts)
    parts = sorted([*parts, Part(REST, 1, rest)], key=lambda part: -part.seconds)
    title = f"{model}, {precision}, {shape.rows} x {shape.tokens} tokens, {threads} threads"
    return StepProfile(title, precision, seconds, plain, parts, measure_roofline())


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _part(row: Any, tokens: int, itemsize: int) -> Part:
    """What the profiler says of one operator at one set of input shapes."""
    namespace, _, name = row.key.partition("::")
    if namespace.startswith(_WRAPPER) and namespace.endswith("_default"):
        # An operator that autograd records runs its kernel inside this wrapper, which has the time; calls and work are
        # counted where the operator itself is listed.
        operator = namespace.removeprefix(_WRAPPER).removesuffix("_default")
        return Part(operator, 0, row.self_cpu_time_total / 1e6)
    shapes = [shape for shape in row.input_shapes if shape]
    seconds, calls = row.self_cpu_time_total / 1e6, row.count
    if namespace not in ("pyllm", "aten"):
        return Part(REST, 0, seconds)
    if namespace == "aten":
        small = name in ("empty", "view", "transpose", "as_strided", "detach", "slice", "select", "t")
        return Part(REST, 0, seconds) if small else Part(f"torch {name}", calls, seconds)
    if name == "linear":
        return _linear(shapes, calls, seconds, tokens)
    flops = calls * _FLOPS[name](shapes) if name in _FLOPS else 0.0
    passes = _ELEMENTWISE.get(name, 0)
    moved = calls * passes * itemsize * math.prod(shapes[0]) if passes else 0.0
    if name == "rope":
        moved = calls * 2 * itemsize * (math.prod(shapes[0]) + math.prod(shapes[1]))
    return Part(name.rstrip("_"), calls, seconds, flops, moved)


def _linear(shapes: Shapes, calls: int, seconds: float, tokens: int) -> Part:
    x, weight = shapes[0], shapes[1]
    kind = "weight gradients" if x[-1] == tokens and len(x) == 2 else "forward and input gradients"
    return Part(f"linear, {kind}", calls, seconds, calls * 2.0 * math.prod(x) * weight[0])


def _attention(shapes: Shapes, products: int) -> float:
    """Causal: half the pairs count. q (batch, heads, tokens, head_dim)."""
    batch, heads, length, dim = shapes[0]
    return products * 2.0 * batch * heads * dim * length * (length + 1) / 2


def _loss(shapes: Shapes, products: int) -> float:
    """x (..., hidden), weight (vocab, hidden)."""
    matrices = [shape for shape in shapes if len(shape) >= 2]
    return products * 2.0 * math.prod(matrices[0]) * matrices[1][0]


_FLOPS: dict[str, Callable[[Shapes], float]] = {
    "attention": lambda shapes: _attention(shapes, 2),
    "attention_backward": lambda shapes: _attention(shapes, 4),
    "linear_cross_entropy": lambda shapes: _loss(shapes, 1),
    "linear_cross_entropy_fused": lambda shapes: _loss(shapes, 3),
    "linear_cross_entropy_backward": lambda shapes: _loss(shapes, 2),
}


def _merged(parts: list[Part]) -> list[Part]:
    """Parts of one name added up."""
    by_name: dict[str, list[Part]] = {}
    for part in parts:
        by_name.setdefault(part.name, []).append(part)
    # What is no operator is the rest, which `measure` finds by subtraction.
    return [
        Part(
            name,
            sum(part.calls for part in group),
            sum(part.seconds for part in group),
            sum(part.flops for part in group),
            sum(part.moved_bytes for part in group),
        )
        for name, group in by_name.items()
        if name != REST
    ]


def table(result: StepProfile) -> Any:
    """Parts by time, those under 0.1% together."""
    from rich import box
    from rich.table import Table

    dtype = torch.float32 if result.precision == "fp32" else torch.bfloat16
    title = f"{result.title}: {result.plain_seconds:.3f} s a step ({result.seconds:.3f} s under the profiler)"
    shown = Table("", box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("calls", "ms", "of step", "Gop/s", "GB/s", "of roof"):
        shown.add_column(column, justify="right")
    visible = [part for part in result.parts if part.seconds >= 0.001 * result.seconds]
    hidden = [part for part in result.parts if part not in visible]
    if hidden:
        visible.append(Part(f"{len(hidden)} others", 0, sum(part.seconds for part in hidden)))
    for part in visible:
        share = part.share_of_roof(result.roofs, dtype)
        shown.add_row(
            part.name,
            str(part.calls or ""),
            f"{1e3 * part.seconds:.1f}",
            f"{part.seconds / result.seconds:.1%}",
            f"{part.flops / part.seconds / 1e9:.0f}" if part.flops else "",
            f"{part.moved_bytes / part.seconds / 1e9:.1f}" if part.moved_bytes else "",
            "" if share is None else f"{share:.0%}",
        )
    flops = sum(part.flops for part in result.parts)
    least, unit = result.roofs.limit(0, int(flops), dtype)
    shown.caption = (
        f"roofs: {result.roofs.rate(MEMORY) / 1e9:.1f} GB/s, {result.roofs.rate(unit) / 1e9:.0f} Gop/s ({unit}); "
        f"the step's {flops / 1e12:.2f} Top alone would take {least:.3f} s"
    )
    return shown
