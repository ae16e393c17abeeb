"""Optimizers over the fused ops, and gradient clipping with one fixed order of summation."""

from pyllm.optim.adamw import AdamW
from pyllm.optim.clipping import clip_coefficient, clip_grad_norm_

__all__ = ["AdamW", "clip_coefficient", "clip_grad_norm_"]
