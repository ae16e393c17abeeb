"""Gradient norm and scaling."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_BLOCK = 1 << 12


@torch.no_grad()
def gradient_norm(gradients: Sequence[torch.Tensor]) -> float:
    """Euclidean norm over all gradients, summed in one order: blocks of 4,096 elements, then blocks in fp64.

    A plain norm of a large tensor may be cut by threads; these blocks are cut by shape, so the bits stay the
    same.
    """
    norms = [
        torch.linalg.vector_norm(block, dim=1, dtype=torch.float32) for g in gradients for block in _blocks(g)
    ]
    return float(torch.cat(norms).cpu().double().square().cumsum(0)[-1].sqrt()) if norms else 0.0


def _blocks(gradient: torch.Tensor) -> list[torch.Tensor]:
    flat = gradient.reshape(-1)
    whole = flat.numel() // _BLOCK * _BLOCK
    return [block for block in (flat[:whole].view(-1, _BLOCK), flat[whole:].view(1, -1)) if block.numel()]


@torch.no_grad()
def scale_gradients(gradients: Sequence[torch.Tensor], factor: float) -> None:
    """Multiplies every gradient by `factor`, in place."""
    for gradient in gradients:
        gradient.mul_(factor)
