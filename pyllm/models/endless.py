"""Attention of texts without end: to the first tokens and to the newest ones (Xiao et al., "StreamingLLM", 2023).

    keys       s s . . . . . . . r r r q       s: sink tokens; r and q: recent tokens
    distances  5 4               3 2 1 0       as if the dots were not there

Stored keys are turned by RoPE for their places in the text. Recent ones stand at their true distance. For the sinks the
query is turned back by as many places as are left out; the two attentions are merged by their denominators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyllm import ops
from pyllm.models.rope import LengthDependentRotary
from pyllm.models.transformer import Transformer
from pyllm.ops import PagedKVCache, paged_attention


@dataclass(frozen=True)
class EndlessWindow:
    """What tokens of an endless text see: its first `sink_tokens` and the newest `recent_tokens`, themselves included.

    Layers with a sliding window of their own keep to it.

    Raises:
        ValueError: a number out of range.
    """

    sink_tokens: int
    recent_tokens: int

    def __post_init__(self) -> None:
        for name, low in (("sink_tokens", 0), ("recent_tokens", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")

    def check(self, network: Transformer) -> None:
        """Raises ValueError where the network's positions do not allow it."""
        config, seen = network.config, self.sink_tokens + self.recent_tokens
        if network.model.rotary is None or isinstance(network.model.rotary, LengthDependentRotary):
            raise ValueError("recent_tokens needs RoPE whose angles depend on positions alone")
        if config.prefix_decoder:
            raise ValueError("recent_tokens must be None for a prefix decoder")
        if seen > config.max_position_embeddings:
            raise ValueError(
                f"sink_tokens + recent_tokens must be at most the context, {config.max_position_embeddings}, "
                f"got {seen}"
            )


@dataclass(frozen=True)
class TurnedBack:
    """The window in one step.

    Attributes:
        late: (tokens,) whether something is left out between sinks and recent tokens.
        cos, sin: (tokens, rotary_dim / 2), turn queries back by what is left out.
    """

    window: EndlessWindow
    late: Tensor
    cos: Tensor
    sin: Tensor
    interleaved: bool

    @classmethod
    def of(cls, window: EndlessWindow, network: Transformer, position_ids: Tensor) -> TurnedBack:
        left_out = position_ids + 1 - window.sink_tokens - window.recent_tokens
        places = left_out.clamp(min=0)
        assert network.model.rotary is not None
        cos, sin = network.model.rotary(int(places.max()) + 1, position_ids.device)
        # The angles alone: what YaRN multiplies queries by, they have been multiplied by.
        factor = getattr(network.model.rotary, "factor", 1.0)
        return cls(
            window, left_out > 0, cos[places] / factor, -sin[places] / factor, network.config.rope_interleaved
        )

    def attend(
        self,
        q: Tensor,
        cache: PagedKVCache,
        block_table: Tensor,
        lengths: Tensor,
        borders: Tensor,
        **options: Any,
    ) -> Tensor:
        """(tokens, heads, head_dim) from turned q of that shape; arguments as in `pyllm.ops.paged_attention`."""
        sinks, recent = self.window.sink_tokens, self.window.recent_tokens
        options |= {"cu_seqlens_q": borders, "window": recent}
        # While nothing is left out, sinks and window together are all there is.
        early = paged_attention(q, cache, block_table, lengths, sink_tokens=sinks, **options)
        assert isinstance(early, Tensor)
        if not sinks or not bool(self.late.any()):
            return early
        near = paged_attention(q, cache, block_table, lengths, return_lse=True, **options)
        turned, _ = ops.rope(
            q.transpose(0, 1)[None],
            q.transpose(0, 1)[None],
            self.cos,
            self.sin,
            interleaved=self.interleaved,
        )
        options |= {"window": None, "is_causal": False}
        first = paged_attention(
            turned[0].transpose(0, 1),
            cache,
            block_table,
            lengths.clamp(max=sinks),
            return_lse=True,
            **options,
        )
        return torch.where(self.late[:, None, None], _merged(*near, *first), early)


def _merged(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> Tensor:
    """Attention to both of two sets of keys, from that to each: outs (tokens, heads, dim), lses (heads, tokens)."""
    largest = torch.maximum(lse, other_lse)
    weight, other_weight = (
        torch.exp(part - largest).T[..., None].to(torch.promote_types(out.dtype, torch.float32))
        for part in (lse, other_lse)
    )
    return ((weight * out + other_weight * other) / (weight + other_weight)).to(out.dtype)
