"""Documents packed behind one another in the rows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def document_layout(document_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Borders and positions of documents in a packed batch.

    A document is a stretch of equal ids within a row; it ends where the id changes or the row ends.

    Args:
        document_ids: (batch, tokens) integers.

    Returns:
        cu_seqlens: (documents + 1,) int32 borders in the flattened batch * tokens.
        position_ids: (batch, tokens) int64, counted from the start of each document.
    """
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    first_tokens = starts.flatten().nonzero().squeeze(1)
    token = torch.arange(document_ids.numel(), device=document_ids.device)
    own_first = first_tokens[starts.flatten().cumsum(0) - 1]
    cu_seqlens = torch.cat([first_tokens, first_tokens.new_tensor([document_ids.numel()])]).to(torch.int32)
    return cu_seqlens, (token - own_first).view_as(document_ids)
