"""Training data: text sources, token stores, packed rows, batches.

    files -> read_pieces -> tokenize -> TokenStore -> split -> PackedRows -> rows_at + collate -> Batch

Reading text needs no torch, so `Batch` and `collate` resolve on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyllm.data.sources import Piece, read_pieces, standard_library_files
from pyllm.data.token_store import TokenStore, open_token_store, split, tokenize

if TYPE_CHECKING:
    from pyllm.data.batch import Batch, Row, Rows, collate
    from pyllm.data.packing import PackedRows, rows_at

__all__ = [
    "Batch",
    "PackedRows",
    "Piece",
    "Row",
    "Rows",
    "TokenStore",
    "collate",
    "open_token_store",
    "read_pieces",
    "rows_at",
    "split",
    "standard_library_files",
    "tokenize",
]

_NEEDS_TORCH = {
    "Batch": "batch",
    "Row": "batch",
    "Rows": "batch",
    "collate": "batch",
    "PackedRows": "packing",
    "rows_at": "packing",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module 'pyllm.data' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"pyllm.data.{_NEEDS_TORCH[name]}"), name)
