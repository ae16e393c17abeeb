"""Logits that are not multiplied out until somebody looks at them.

A model's forward computes logits, hands them to its loss and returns them. The loss is all that a training step needs,
and `pyllm.ops.linear_cross_entropy` takes it from the hidden states. `DeferredLogits` stands in for the tensor in
between: what models do to logits on the way to a loss (a change of shape or dtype, a scale, Gemma's softcap, a slice of
tokens) is noted, cross entropy runs fused, and everything else, an argmax for a metric as much as a sampler's filter,
gets the tensor itself, with its gradient, at that moment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from pyllm import ops

_CROSS_ENTROPY = (
    "input",
    "target",
    "weight",
    "size_average",
    "ignore_index",
    "reduce",
    "reduction",
    "label_smoothing",
)


@dataclass(frozen=True)
class _Scale:
    """logits * by / over"""

    by: float
    over: float


@dataclass(frozen=True)
class _Tanh:
    """tanh(logits)"""


@dataclass(eq=False)
class DeferredLogits:
    """What `F.linear(hidden, weight, bias)` would give, then `steps`; behaves like that tensor.

    Args:
        hidden: (..., in); weight: (out, in); bias: (out,) or None.
        float32: `.float()` was called.
        steps: scales and tanh that followed, in order.
        autocast: dtype of the autocast under which the head ran, or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    float32: bool = False
    steps: tuple[_Scale | _Tanh, ...] = ()
    autocast: torch.dtype | None = None
    _made: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, hidden: Tensor, head: torch.nn.Linear) -> DeferredLogits:
        """The logits of `head` for hidden (..., in)."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        return cls(hidden, head.weight, head.bias, autocast=dtype)

    # What models ask of logits before their loss.

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.hidden.shape[:-1], self.weight.shape[0]))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.float32 else self.autocast or self.hidden.dtype

    @property
    def device(self) -> torch.device:
        return self.hidden.device

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.hidden.dim()

    def float(self) -> Any:
        if self._made is not None or self.dtype == torch.float64:
            return self.tensor().float()
        return self if self.dtype == torch.float32 else replace(self, float32=True)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        same = not kwargs and len(args) == 1 and args[0] in (self.device, self.dtype, str(self.device))
        return self if same else self.tensor().to(*args, **kwargs)

    def contiguous(self) -> Any:
        return self

    def view(self, *shape: Any) -> Any:
        return self.reshape(*shape)

    def reshape(self, *shape: Any) -> Any:
        """Deferred as long as rows stay rows."""
        sizes = list(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else list(shape)
        if self._made is None and len(sizes) > 1 and sizes[-1] in (self.shape[-1], -1):
            rows = self.hidden.shape[:-1].numel()
            with contextlib.suppress(RuntimeError):  # a shape that mixes rows and columns
                lead = torch.empty(rows, device="meta").reshape(sizes[:-1]).shape
                return replace(self, hidden=self.hidden.reshape(*lead, self.hidden.shape[-1]))
        return self.tensor().reshape(*shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        if self._made is None and end_dim in (-2, self.dim() - 2):
            return replace(self, hidden=self.hidden.flatten(start_dim, end_dim))
        return self.tensor().flatten(start_dim, end_dim)

    def __getitem__(self, index: Any) -> Any:
        """Deferred where tokens alone are chosen."""
        entries = index if isinstance(index, tuple) else (index,)
        plain = all(isinstance(entry, int | slice) or entry is Ellipsis for entry in entries)
        if self._made is not None or not plain:
            return self.tensor()[index]
        whole = slice(None)
        if Ellipsis in entries:
            takes_all = entries[-1] in (whole, Ellipsis)
        else:
            takes_all = len(entries) < self.dim() or entries[-1] == whole
        return replace(self, hidden=self.hidden[index]) if takes_all else self.tensor()[index]

    def __mul__(self, other: Any) -> Any:
        deferred = self._made is None and _is_positive(other)
        return replace(self, steps=(*self.steps, _Scale(other, 1.0))) if deferred else self.tensor() * other

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        deferred = self._made is None and _is_positive(other)
        return replace(self, steps=(*self.steps, _Scale(1.0, other))) if deferred else self.tensor() / other

    # Everything else.

    def tensor(self) -> Tensor:
        """The logits themselves; made once, then kept."""
        if self._made is not None:
            return self._made
        if self.weight.untyped_storage().size() == 0:
            raise RuntimeError(
                "these logits were not multiplied out during forward and their weight has been given back since "
                "(FSDP); read them inside the model's forward or pass loss=False to pyllm.patch"
            )
        with self._context():
            made = F.linear(self.hidden, self.weight, self.bias)
        for step in self.steps:
            made = made.tanh() if isinstance(step, _Tanh) else made * step.by / step.over
        made = made.float() if self.float32 else made
        if made.requires_grad:
            self._made = made
        return made

    def _context(self) -> Any:
        return torch.autocast("cpu", dtype=self.autocast, enabled=self.autocast is not None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.tensor(), name)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._made = self.tensor()
        self._made[index] = value

    def __len__(self) -> int:
        return self.shape[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.tensor().detach().clone()

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tanh and not kwargs and len(args) == 1 and args[0]._made is None:
            return replace(args[0], steps=(*args[0].steps, _Tanh()))
        if func is F.cross_entropy:
            loss = _fused_cross_entropy(**{**dict(zip(_CROSS_ENTROPY, args, strict=False)), **kwargs})
            if loss is not None:
                return loss
        args, kwargs = _with_tensors((args, kwargs))
        return func(*args, **kwargs)


def _with_tensors(values: Any) -> Any:
    return tree_map_only(DeferredLogits, DeferredLogits.tensor, values)


def _of_the_tensor(name: str) -> Callable[..., Any]:
    """An operator of Python's, which looks at the class and so passes `__getattr__` by."""

    def operate(self: DeferredLogits, *others: Any) -> Any:
        return getattr(self.tensor(), name)(*_with_tensors(others))

    return operate


for _operator in (
    *("add", "radd", "sub", "rsub", "rtruediv", "pow", "rpow", "matmul", "neg", "abs"),
    *("eq", "ne", "lt", "le", "gt", "ge", "iter", "array"),
):
    setattr(DeferredLogits, f"__{_operator}__", _of_the_tensor(f"__{_operator}__"))


def _fused_cross_entropy(
    input: Any,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    """`F.cross_entropy` from hidden states, or None where it is not what our op computes."""
    if not isinstance(input, DeferredLogits) or input._made is not None:
        return None
    if any(option is not None for option in (weight, size_average, reduce)):
        return None
    capped = _softcap_and_temperature(input.steps)
    if target.dtype != torch.int64 or target.shape != input.hidden.shape[:-1] or input.dim() > 2:
        return None
    if capped is None or reduction not in ("mean", "sum", "none"):
        return None
    softcap, temperature = capped
    with input._context():
        loss = ops.linear_cross_entropy(
            input.hidden,
            input.weight,
            target,
            bias=input.bias,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            softcap=softcap,
            temperature=temperature,
            reduction=cast(Any, reduction),
        )
    return loss.to(input.dtype)


def _softcap_and_temperature(steps: tuple[_Scale | _Tanh, ...]) -> tuple[float | None, float] | None:
    """scale ... tanh ... scale as the op has it, cap * tanh(logits / cap) / temperature; None for other steps."""
    before, after, capped = 1.0, 1.0, False
    for step in steps:
        if isinstance(step, _Tanh):
            if capped:
                return None
            capped = True
        elif capped:
            after *= step.by / step.over
        else:
            before *= step.by / step.over
    return (1.0 / before, 1.0 / (before * after)) if capped else (None, 1.0 / before)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0
