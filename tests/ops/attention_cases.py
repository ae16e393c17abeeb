"""Inputs and mask variants that the attention tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import attention
from pyllm.ops.attention_reference import attention_reference


@dataclass(frozen=True)
class Case:
    """Shapes and options of one call; `mask` and `sink` name tensors that take a gradient."""

    name: str
    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    q_len: int = 37
    kv_len: int = 37
    head_dim: int = 16
    value_dim: int | None = None
    mask_shape: tuple[int, ...] | None = None
    sink: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def inputs(self, dtype: torch.dtype, seed: int = 0, grad: bool = True) -> list[Tensor | None]:
        """q, k, v, additive mask or None, sink logits or None."""
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g).to(dtype).requires_grad_(grad)

        q = normal(self.batch, self.heads, self.q_len, self.head_dim)
        k = normal(self.batch, self.kv_heads, self.kv_len, self.head_dim)
        v = normal(self.batch, self.kv_heads, self.kv_len, self.value_dim or self.head_dim)
        mask = None if self.mask_shape is None else normal(*self.mask_shape)
        return [q, k, v, mask, normal(self.heads) if self.sink else None]


def ours(case: Case) -> Callable[..., tuple[Tensor, Tensor]]:
    """(q, k, v, mask, sink) -> (out, lse) through the public op."""

    def call(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        options = dict(case.options)
        mask = options.pop("attn_mask", mask)
        return finite(*attention(q, k, v, attn_mask=mask, sink_logits=sink, return_lse=True, **options))

    return call


def plain(case: Case) -> Callable[..., tuple[Tensor, Tensor]]:
    """The same in plain torch, in the dtype of its inputs."""

    def call(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        options = dict(case.options)
        mask = options.pop("attn_mask", mask)
        prefix = options.pop("prefix_length", None)
        if isinstance(prefix, int):
            prefix = torch.full((q.shape[0],), prefix)
        return finite(*attention_reference(q, k, v, mask, sink, prefix_length=prefix, **options))

    return call


def finite(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Rows without keys have lse -inf, which no error can be measured against."""
    return out, lse.masked_fill(lse == -torch.inf, -100.0)


def boolean_mask(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(9)) < 0.6


VARIANTS = [
    Case("full"),
    Case("causal", options={"is_causal": True}),
    Case("one_query", q_len=1, kv_len=70, options={"is_causal": True}),
    Case("more_queries_than_keys", q_len=40, kv_len=25, options={"is_causal": True}),
    Case("multi_query", heads=6, kv_heads=1, kv_len=50, options={"is_causal": True, "scale": 0.2}),
    Case("negative_scale", options={"scale": -0.3}),
    Case("odd_dims", head_dim=13, value_dim=21, q_len=9, kv_len=33),
    Case("wide_heads", batch=1, heads=2, q_len=11, kv_len=20, head_dim=272),
    Case("heads_of_128", batch=1, heads=2, head_dim=128),
    Case("window", options={"window": 5}),
    Case("window_and_sinks", kv_len=60, options={"window": 7, "sink_tokens": 3}),
    Case("prefix", options={"is_causal": True, "prefix_length": 9}),
    Case("prefix_per_row", options={"window": 4, "prefix_length": torch.tensor([0, 20])}),
    Case("sink_logits", sink=True, options={"is_causal": True}),
    Case("softcap", options={"softcap": 1.5, "is_causal": True}),
    Case("alibi", options={"alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.03])}),
    Case("lengths", options={"kv_lengths": torch.tensor([21, 0])}),
    Case("lengths_causal", q_len=5, options={"kv_lengths": torch.tensor([21, 3]), "is_causal": True}),
    Case("boolean", options={"attn_mask": boolean_mask(2, 1, 37, 37)}),
    Case("boolean_keys", options={"attn_mask": boolean_mask(2, 1, 1, 37), "is_causal": True}),
    Case("bias", mask_shape=(2, 4, 37, 37)),
    Case("bias_of_heads", mask_shape=(1, 4, 37, 37), options={"is_causal": True}),
    Case("bias_of_keys", mask_shape=(2, 1, 1, 37)),
    Case("bias_of_queries", mask_shape=(37, 1)),
    Case("bias_shared", mask_shape=(37, 37), options={"softcap": 3.0}),
    Case("bias_scalar", mask_shape=(1,)),
    Case("dropout", options={"dropout_p": 0.3, "is_causal": True}),
    Case(
        "everything",
        kv_len=64,
        mask_shape=(1, 4, 37, 64),
        sink=True,
        options={
            "window": 20,
            "sink_tokens": 2,
            "prefix_length": torch.tensor([5, 0]),
            "softcap": 4.0,
            "alibi_slopes": torch.tensor([0.1, 0.2, 0.3, 0.4]),
            "kv_lengths": torch.tensor([64, 50]),
        },
    ),
]

# More than one key block of 256 and more than one tile of 96 rows; few and many heads take different schedules.
LONG = [
    Case(
        "long", batch=1, heads=2, kv_heads=1, q_len=300, kv_len=600, head_dim=32, options={"is_causal": True}
    ),
    Case("long_heads", batch=2, heads=4, kv_heads=4, q_len=130, kv_len=300, head_dim=24, sink=True),
    Case("long_window", batch=1, heads=2, q_len=530, kv_len=530, options={"window": 40, "sink_tokens": 4}),
    Case("long_bias", batch=2, heads=2, q_len=120, kv_len=280, mask_shape=(1, 2, 120, 280)),
    Case("long_batch", batch=5, heads=4, kv_heads=4, q_len=100, kv_len=270, options={"window": 64}),
    Case("decode", batch=2, heads=6, q_len=2, kv_len=700, head_dim=64, options={"is_causal": True}),
]
