"""Fused operators: each has compiled kernels, a plain-torch reference, a fake kernel, autograd and an autocast rule."""

from pyllm.ops.rms_norm import rms_norm

__all__ = ["rms_norm"]
