"""Logits, and changes to them that depend on what a text already contains."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pyllm import ops
from pyllm.generation.config import GenerationConfig


def head_logits(
    hidden: Tensor, lm_head_weight: Tensor | ops.QuantizedTensor, softcap: float | None = None
) -> Tensor:
    """hidden (rows, hidden_size) @ lm_head_weight.T as float32 sums, unrounded, as the loss sees them.

    With `softcap` softcap * tanh(sums / softcap). float64 stays float64.
    """
    if isinstance(lm_head_weight, ops.QuantizedTensor):
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logits = ops.quantized_linear(hidden.to(wide), lm_head_weight)
    else:
        out_dtype = None if hidden.dtype == torch.float64 else torch.float32
        logits = ops.linear(hidden, lm_head_weight, out_dtype=out_dtype)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def typical(logits: Tensor, mass: float) -> Tensor:
    """Logits (rows, vocab) with -inf but for the tokens nearest to the expected information that reach `mass`.

    A token's information is -log p; the distance from its mean ranks the tokens (Meister et al., 2022).
    """
    logprobs = torch.log_softmax(logits, -1)
    probabilities = logprobs.exp()
    entropy = -torch.where(probabilities > 0, probabilities * logprobs, 0.0).sum(-1, keepdim=True)
    order = (logprobs + entropy).abs().sort(dim=-1, stable=True).indices
    before = probabilities.gather(-1, order).cumsum(-1).roll(1, -1)
    before[:, 0] = 0.0
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before < mass)
    return torch.where(kept, logits, -torch.inf)


class LogitsEditor:
    """Applies penalties, bias and bans to the logits of a batch; each row sees its own history only.

    Nothing is kept for options that are off. Call `edit` with the logits of a step, then `append` with the tokens
    that were chosen.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompts: Sequence[Sequence[int]],
        vocab_size: int,
        eos_token_ids: Iterable[int],
        device: torch.device,
    ) -> None:
        self._config = config
        self._eos = sorted(token for token in eos_token_ids if 0 <= token < vocab_size)
        self._step = 0
        shape = (len(prompts), vocab_size)
        self._seen = self._counts = self._bias = self._ngrams = None
        if config.repetition_penalty != 1:
            self._seen = torch.zeros(shape, dtype=torch.bool, device=device)
            for row, prompt in zip(self._seen, prompts, strict=True):
                row[torch.tensor(prompt, device=device)] = True
        if config.presence_penalty or config.frequency_penalty:
            self._counts = torch.zeros(shape, device=device)
        if config.logit_bias:
            self._bias = _bias_vector(config, vocab_size, device)
        if config.no_repeat_ngram_size:
            self._ngrams = [NgramIndex(config.no_repeat_ngram_size, prompt) for prompt in prompts]

    def edit(self, logits: Tensor) -> Tensor:
        """Edited logits, (rows, vocab_size) float32; the argument is left as it was."""
        config = self._config
        if self._seen is not None:
            factor = config.repetition_penalty
            penalized = torch.where(logits > 0, logits / factor, logits * factor)
            logits = torch.where(self._seen, penalized, logits)
        if self._counts is not None:
            presence = (self._counts > 0) * config.presence_penalty
            logits = logits - presence - self._counts * config.frequency_penalty
        if self._bias is not None:
            logits = logits + self._bias
        banned = self._eos if self._step < config.min_new_tokens else []
        if self._ngrams is None and not banned:
            return logits
        logits = logits.clone()
        logits[:, banned] = -torch.inf
        for row, index in zip(logits, self._ngrams or (), strict=False):
            row[index.completions()] = -torch.inf
        return logits

    def append(self, tokens: Tensor) -> None:
        """Takes the chosen tokens, (rows,) int64, into the history."""
        self._step += 1
        column = tokens[:, None]
        if self._seen is not None:
            self._seen.scatter_(1, column, True)
        if self._counts is not None:
            self._counts.scatter_add_(1, column, torch.ones_like(column, dtype=torch.float32))
        for index, token in zip(self._ngrams or (), tokens.tolist(), strict=False):
            index.append(token)

    def select(self, rows: Tensor) -> None:
        """Keeps `rows` (n,) int64 of the batch, in that order."""
        if self._seen is not None:
            self._seen = self._seen[rows]
        if self._counts is not None:
            self._counts = self._counts[rows]
        if self._ngrams is not None:
            # Beams may come from one row, and each goes its own way.
            self._ngrams = [copy.deepcopy(self._ngrams[row]) for row in rows.tolist()]


class NgramIndex:
    """Which tokens have followed each run of size - 1 tokens of a text."""

    def __init__(self, size: int, tokens: Iterable[int]) -> None:
        self._context = size - 1
        self._followers: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        self._last: tuple[int, ...] = ()
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        if len(self._last) == self._context:
            self._followers[self._last].append(token)
        self._last = (*self._last, token)[-self._context :] if self._context else ()

    def completions(self) -> list[int]:
        """Tokens that would complete an n-gram the text already has."""
        return self._followers.get(self._last, [])


def _bias_vector(config: GenerationConfig, vocab_size: int, device: torch.device) -> Tensor:
    bias = torch.zeros(vocab_size, device=device)
    for token, value in config.logit_bias.items():
        bias[token] = value
    return bias
