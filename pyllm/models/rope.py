"""RoPE scaling of a configuration, applied."""

from __future__ import annotations

from torch import Tensor

from pyllm.models.config import RopeScaling
from pyllm.nn.rotary import llama3_frequencies


def scaled_frequencies(inverse: Tensor, scaling: RopeScaling | None) -> Tensor:
    """Inverse frequencies (rotary_dim / 2,) as `scaling` stretches them."""
    if scaling is None:
        return inverse
    if scaling.kind == "linear":
        return inverse / scaling.factor
    return llama3_frequencies(
        inverse,
        scaling.factor,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
        scaling.original_max_position_embeddings,
    )
