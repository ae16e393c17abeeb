"""From hidden states to tokens: every row by its own request's options, and its log-probabilities."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from pyllm import ops
from pyllm.generation.config import GenerationConfig
from pyllm.generation.log_probs import chosen_log_probs, token_log_probs
from pyllm.generation.logits import head_logits, typical
from pyllm.generation.request import Request

# Steps whose log-probabilities are computed together: one pass over the head's weight in place of one per token. That
# of a head which is not quantized: the trainer's loss has logits of its own, in another order.
_PENDING_STEPS = 32


class TokenChooser:
    """Chooses the next token of each request and appends it.

    A row's token depends on that row and its request alone: edits go row by row, and random numbers are a function of
    the request's seed and the token's index.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._pending: list[tuple[list[Request], Tensor, Tensor]] = []  # requests, hidden states, tokens

    def choose(self, requests: list[Request], hidden: Tensor) -> None:
        """Appends a token to each request, whose last hidden states are `hidden` (requests, hidden_size).

        A request whose logits are not numbers gets none: it is ended, and its `error` is set.
        """
        network = self._network
        logits = head_logits(hidden, network.lm_head_weight, network.logit_softcap)
        rows = logits.split(1)
        edited = [request.editor.edit(row) for request, row in zip(requests, rows, strict=True)]
        same = all(after is before for after, before in zip(edited, rows, strict=True))
        chosen = self._sample(requests, logits if same else torch.cat(edited))
        if any(request.error is not None for request in requests):
            good = [number for number, request in enumerate(requests) if request.error is None]
            if not good:
                return
            requests = [requests[number] for number in good]
            hidden, logits, chosen = hidden[good], logits[good], chosen[good]
        self._append(requests, chosen, logits)
        if isinstance(network.lm_head_weight, ops.QuantizedTensor):
            _report(requests, chosen_log_probs(logits, chosen))
            return
        self._pending.append((requests, hidden, chosen))
        if len(self._pending) == _PENDING_STEPS or any(request.finished for request in requests):
            self.flush()

    def flush(self) -> None:
        """Computes the log-probabilities that are still out."""
        if not self._pending:
            return
        owners = [request for requests, _, _ in self._pending for request in requests]
        hidden = torch.cat([hidden for _, hidden, _ in self._pending])
        tokens = torch.cat([tokens for _, _, tokens in self._pending])
        self._pending = []
        network = self._network
        _report(owners, token_log_probs(hidden, network.lm_head_weight, tokens, network.logit_softcap))

    def _sample(self, requests: list[Request], logits: Tensor) -> Tensor:
        """A token for each row, (rows,) int64; rows of one kind of sampling are drawn in one call."""
        kinds = defaultdict(list)
        for number, request in enumerate(requests):
            kinds[_kind(request.config)].append(number)
        if len(kinds) == 1:
            return _draw_or_fail(requests, logits)
        chosen = torch.empty(len(requests), dtype=torch.int64, device=logits.device)
        for numbers in kinds.values():
            chosen[numbers] = _draw_or_fail([requests[number] for number in numbers], logits[numbers])
        return chosen

    def _append(self, requests: list[Request], chosen: Tensor, logits: Tensor) -> None:
        for request, token, number, row in zip(
            requests, chosen.split(1), chosen.tolist(), logits.split(1), strict=True
        ):
            top = request.completion.top_logprobs
            if top is not None:
                top.append(_most_likely(row, request.config.num_top_logprobs))
            request.editor.append(token)
            request.append(number)


def _report(requests: list[Request], values: Tensor) -> None:
    for request, value in zip(requests, values.tolist(), strict=True):
        request.completion.logprobs.append(value)


def _kind(config: GenerationConfig) -> tuple[float, ...]:
    """What has to be equal for rows that are drawn in one call."""
    if config.temperature == 0:
        return (0.0,)
    return config.temperature, config.top_k, config.top_p, config.min_p, config.typical_p


def _draw_or_fail(requests: list[Request], logits: Tensor) -> Tensor:
    """A token for each row; a request whose row cannot be drawn from gets token 0 and an error."""
    try:
        return _draw(requests, logits)
    except ValueError as error:
        if len(requests) == 1:
            requests[0].error = error
            requests[0].end("cancelled")
            return torch.zeros(1, dtype=torch.int64, device=logits.device)
    parts = zip(requests, logits.split(1), strict=True)
    return torch.cat([_draw_or_fail([request], row) for request, row in parts])


def _draw(requests: list[Request], logits: Tensor) -> Tensor:
    config, device = requests[0].config, logits.device
    if config.typical_p < 1 and config.temperature > 0:
        # Row by row: torch cuts the sums of several rows in other ways than those of one.
        rows = [typical(row / config.temperature, config.typical_p) for row in logits.split(1)]
        logits = torch.cat(rows) * config.temperature
    return ops.sample(
        logits,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        seed=torch.tensor([request.seed for request in requests], device=device),
        position=torch.tensor([len(request.completion.token_ids) for request in requests], device=device),
    )


def _most_likely(logits: Tensor, count: int) -> dict[int, float]:
    """Log-probabilities of a row's `count` most likely tokens, by token."""
    values, tokens = torch.log_softmax(logits[0], -1).topk(min(count, logits.shape[-1]))
    return dict(zip(tokens.tolist(), values.tolist(), strict=True))
