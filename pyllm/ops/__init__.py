"""Fused operators: each has compiled kernels, a plain-torch reference, a fake kernel, autograd and an autocast rule."""

from pyllm.ops.linear import linear
from pyllm.ops.rms_norm import rms_norm
from pyllm.ops.rope import rope
from pyllm.ops.swiglu import glu, swiglu

__all__ = ["glu", "linear", "rms_norm", "rope", "swiglu"]
