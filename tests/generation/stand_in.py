"""A network and a tokenizer small enough to predict: what the loop does with them can be worked out by hand."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyllm.models import ModelConfig

BOS, EOS = 256, 257
VOCAB = 258


class Histories:
    """Stands in for the key-value cache: remembers each row's tokens."""

    def __init__(self, rows: int) -> None:
        self.rows: list[list[int]] = [[] for _ in range(rows)]

    def select(self, rows: Tensor) -> None:
        self.rows = [list(self.rows[row]) for row in rows.tolist()]


class Network:
    """`logits_of(history)` for each row: hidden states that are logits already, under a head that leaves them alone.

    Padding on the right is dropped as the real cache does.
    """

    device = torch.device("cpu")
    lm_head_weight = torch.eye(VOCAB)
    logit_softcap = None

    def __init__(self, logits_of: Callable[[Sequence[int]], Tensor], context: int = 512) -> None:
        self.config = ModelConfig(
            vocab_size=VOCAB,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=context,
        )
        self.batch_sizes: list[int] = []
        self._logits_of = logits_of

    def new_cache(self, batch_size: int, *, capacity: int = 256) -> Histories:
        return Histories(batch_size)

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        kv_cache: Histories,
        input_lengths: Tensor | None = None,
        last_token_only: bool,
    ) -> Tensor:
        assert last_token_only
        assert len(kv_cache.rows) == len(input_ids)
        self.batch_sizes.append(len(input_ids))
        lengths = [input_ids.shape[1]] * len(input_ids) if input_lengths is None else input_lengths.tolist()
        for history, row, length in zip(kv_cache.rows, input_ids.tolist(), lengths, strict=True):
            history.extend(row[:length])
        return torch.stack([self._logits_of(history) for history in kv_cache.rows])


def hashed(history: Sequence[int]) -> Tensor:
    """Logits that depend on every token of the history, spread enough to be sampled from."""
    digest = hashlib.sha256(repr(list(history)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(VOCAB, generator=generator) * 2


def saying(text: bytes, then: int = EOS) -> Callable[[Sequence[int]], Tensor]:
    """Logits that spell `text` after a prompt that ends in ':', then repeat the token `then`."""

    def logits_of(history: Sequence[int]) -> Tensor:
        place = len(history) - history.index(ord(":")) - 1
        logits = torch.zeros(VOCAB)
        logits[text[place] if place < len(text) else then] = 5.0
        return logits

    return logits_of


class ByteTokenizer:
    """One token per byte."""

    eos_token_id = EOS

    def encode(
        self, text: str, *, add_special_tokens: bool = False, allowed_special: object = ()
    ) -> list[int]:
        ids = list(text.encode())
        return [BOS, *ids] if add_special_tokens and text else ids

    def apply_chat_template(self, messages: list[dict], *, add_generation_prompt: bool = True) -> list[int]:
        text = "".join(f"{m['role']}:{m['content']}\n" for m in messages)
        return list((text + "assistant:" * add_generation_prompt).encode())

    def stream_decoder(self) -> ByteDecoder:
        return ByteDecoder()


class ByteDecoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)
