"""The generation loop: one forward pass of all running rows per token, with a key-value cache.

    prompts --prefill--> cache, logits of the last tokens
    repeat: logits -> edits -> sample -> append to each row, drop finished rows -> forward of the new tokens
    every few steps, and where a row ends: log-probabilities of the tokens since

A row's tokens depend on its own prompt and seed only: padding is never attended to, edits look at the row's own
history, and random numbers are a function of the row's seed and the index of the token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyllm import ops
from pyllm.generation.beam import beam_search
from pyllm.generation.config import GenerationConfig
from pyllm.generation.log_probs import token_log_probs
from pyllm.generation.logits import LogitsEditor, head_logits, typical
from pyllm.generation.text import TextAssembler
from pyllm.models import Transformer

# What decodes together: rows do not influence each other, so these bound memory and change nothing else.
MAX_ROWS = 32
MAX_PROMPT_TOKENS = 32768
_CACHE_ROOM = 256
# Steps whose log-probabilities are computed together: one pass over the head's weight in place of one per token.
_PENDING_STEPS = 32
_GOLDEN_RATIO = 0x9E3779B97F4A7C15


@dataclass
class Completion:
    """What a model added to a prompt.

    Attributes:
        text: the new text, without the prompt, the end-of-sequence token and the stop string; empty where the model
            has no tokenizer.
        token_ids: every new token, those of the stop string and the end-of-sequence token included.
        logprobs: log-probability of each new token under the model itself: before temperature, penalties and filters;
            to the bit what `Model.log_probs` and the trainer's loss give it. Complete once `finish_reason` is set;
            while text streams they follow the tokens in stretches of 32.
        finish_reason: "stop" (end-of-sequence token or stop string) or "length" (max_new_tokens, or the context is
            full); None while it is being generated.
        top_logprobs: per new token, the most likely token ids and their log-probabilities, if
            `GenerationConfig.logprobs` asks for them.
        prompt_token_ids: the prompt as the model saw it.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    top_logprobs: list[dict[int, float]] | None = None
    prompt_token_ids: list[int] = field(default_factory=list)


class _Row:
    """One completion in the making."""

    def __init__(self, prompt: Sequence[int], limit: int, config: GenerationConfig, tokenizer: Any) -> None:
        self.completion = Completion(prompt_token_ids=list(prompt))
        if config.num_top_logprobs:
            self.completion.top_logprobs = []
        self._assembler = TextAssembler(None if tokenizer is None else tokenizer.stream_decoder(), config)
        self._limit = limit

    def append(self, token: int, ends: bool) -> None:
        done = self.completion
        done.token_ids.append(token)
        if not ends:
            self._assembler.feed(token)
        full = len(done.token_ids) >= self._limit
        if ends or full or self._assembler.stopped:
            self._assembler.finish()
            done.finish_reason = "stop" if ends or self._assembler.stopped else "length"
        done.text = self._assembler.text


class Decoding:
    """Completions of several prompts, made token by token: call `step` until `finished`.

    Args:
        prompts: token ids, none empty, each shorter than the model's context; may repeat.
        seeds: one per prompt, for sampling.
        eos_token_ids: tokens that end a text.
        tokenizer: has `stream_decoder()`; None leaves the text empty.

    Attributes:
        completions: one per prompt, growing with every step.
    """

    def __init__(
        self,
        network: Transformer,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        config: GenerationConfig,
        eos_token_ids: Collection[int],
        tokenizer: Any,
    ) -> None:
        self._network, self._config = network, config
        self._eos = frozenset(() if config.ignore_eos else eos_token_ids)
        context = network.config.max_position_embeddings
        self._rows = [
            _Row(prompt, min(config.max_new_tokens, context - len(prompt)), config, tokenizer)
            for prompt in prompts
        ]
        self.completions = [row.completion for row in self._rows]
        device = network.device
        self._seeds = torch.tensor(list(seeds), device=device)
        vocab_size = network.config.vocab_size
        self._editor = LogitsEditor(config, prompts, vocab_size, eos_token_ids, device)
        self._cache: Any = None
        self._tokens = torch.zeros_like(self._seeds)
        self._generated = 0
        self._pending: list[tuple[list[_Row], Tensor, Tensor]] = []  # rows, their hidden states, their tokens

    @property
    def finished(self) -> bool:
        return not self._rows

    @torch.inference_mode()
    def step(self) -> None:
        """Adds one token to every unfinished completion."""
        hidden = self._prefill() if self._cache is None else self._decode()
        logits = head_logits(hidden, self._network.lm_head_weight, self._network.logit_softcap)
        config = self._config
        edited = self._editor.edit(logits)
        if config.typical_p < 1 and config.temperature > 0:
            edited = typical(edited / config.temperature, config.typical_p) * config.temperature
        tokens = ops.sample(
            edited,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            seed=self._seeds,
            position=self._generated,
        )
        self._generated += 1
        self._editor.append(tokens)
        self._pending.append((self._rows, hidden, tokens))
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token, token in self._eos)
        if config.num_top_logprobs:
            self._append_top_logprobs(logits)
        self._tokens = tokens
        ended = any(row.completion.finish_reason is not None for row in self._rows)
        if ended or len(self._pending) == _PENDING_STEPS:
            self._append_logprobs()
        if ended:
            self._drop_finished()

    def _prefill(self) -> Tensor:
        """Hidden states (rows, hidden_size) after the prompts; equal prompts are computed once."""
        prompts = [row.completion.prompt_token_ids for row in self._rows]
        unique = list(dict.fromkeys(map(tuple, prompts)))
        device = self._network.device
        lengths = torch.tensor([len(prompt) for prompt in unique], device=device)
        padded = torch.zeros((len(unique), int(lengths.max())), dtype=torch.int64, device=device)
        for row, prompt in zip(padded, unique, strict=True):
            row[: len(prompt)] = torch.tensor(prompt, device=device)
        self._cache = self._network.new_cache(len(unique), capacity=padded.shape[1] + _CACHE_ROOM)
        prefix = {"prefix_lengths": lengths} if self._network.config.prefix_decoder else {}
        hidden = self._network.hidden_states(
            padded, kv_cache=self._cache, input_lengths=lengths, last_token_only=True, **prefix
        )
        if len(unique) == len(prompts):
            return hidden
        places = {prompt: place for place, prompt in enumerate(unique)}
        rows = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)
        self._cache.select(rows)
        return hidden[rows]

    def _decode(self) -> Tensor:
        return self._network.hidden_states(self._tokens[:, None], kv_cache=self._cache, last_token_only=True)

    def _append_logprobs(self) -> None:
        hidden = torch.cat([hidden for _, hidden, _ in self._pending])
        tokens = torch.cat([tokens for _, _, tokens in self._pending])
        network = self._network
        values = token_log_probs(hidden, network.lm_head_weight, tokens, network.logit_softcap)
        logprobs = iter(values.tolist())
        for rows, _, _ in self._pending:
            for row in rows:
                row.completion.logprobs.append(next(logprobs))
        self._pending = []

    def _append_top_logprobs(self, logits: Tensor) -> None:
        count = min(self._config.num_top_logprobs, logits.shape[-1])
        values, tokens = torch.log_softmax(logits, -1).topk(count)
        for row, value, token in zip(self._rows, values.tolist(), tokens.tolist(), strict=True):
            if row.completion.top_logprobs is not None:
                row.completion.top_logprobs.append(dict(zip(token, value, strict=True)))

    def _drop_finished(self) -> None:
        keep = [index for index, row in enumerate(self._rows) if row.completion.finish_reason is None]
        self._rows = [self._rows[index] for index in keep]
        if not keep:
            self._cache = None
            return
        rows = torch.tensor(keep, device=self._tokens.device)
        self._seeds, self._tokens = self._seeds[rows], self._tokens[rows]
        self._editor.select(rows)
        self._cache.select(rows)


def generate(
    network: Transformer,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    eos_token_ids: Collection[int] = (),
    tokenizer: Any = None,
) -> list[Completion]:
    """Completes prompts of token ids.

    Returns:
        `config.num_return_sequences` completions per prompt, those of one prompt side by side, in the prompts' order.

    Raises:
        ValueError: an empty prompt, a token outside the vocabulary, a prompt that fills the context, stop strings
            without a tokenizer; names the prompt.
    """
    check_prompts(network, prompts, config, tokenizer)
    if config.num_beams > 1:
        eos = frozenset(() if config.ignore_eos else eos_token_ids)
        return [c for prompt in prompts for c in _search(network, prompt, config, eos, tokenizer)]
    copies = config.num_return_sequences
    requests = [(prompt, _seed(config, copy)) for prompt in prompts for copy in range(copies)]
    completions: list[Completion] = [Completion()] * len(requests)
    for places in _batches([len(prompt) for prompt, _ in requests]):
        batch_prompts, seeds = zip(*(requests[place] for place in places), strict=True)
        decoding = Decoding(network, batch_prompts, seeds, config, eos_token_ids, tokenizer)
        while not decoding.finished:
            decoding.step()
        for place, completion in zip(places, decoding.completions, strict=True):
            completions[place] = completion
    return completions


def _search(
    network: Transformer,
    prompt: Sequence[int],
    config: GenerationConfig,
    eos: Collection[int],
    tokenizer: Any,
) -> list[Completion]:
    """The answers that beam search finds, as completions."""
    limit = min(config.max_new_tokens, network.config.max_position_embeddings - len(prompt))
    completions = []
    for found in beam_search(network, prompt, config, eos, limit):
        row = _Row(prompt, limit, config, tokenizer)
        for token in found.tokens:
            row.append(token, token in eos)
        row.completion.logprobs = list(found.logprobs)
        completions.append(row.completion)
    return completions


class TextStream:
    """Iterator over the text of one completion, piece by piece; `completion` holds what there is so far.

    Pieces are never empty, end on whole characters and hold no part of a stop string; joined they are the
    completion's text. To stop early, stop iterating.
    """

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self.completion = decoding.completions[0]
        self._shown = 0

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> str:
        while not self._decoding.finished:
            self._decoding.step()
            if len(self.completion.text) > self._shown:
                piece = self.completion.text[self._shown :]
                self._shown = len(self.completion.text)
                return piece
        raise StopIteration


def stream(
    network: Transformer,
    prompt: Sequence[int],
    config: GenerationConfig,
    *,
    eos_token_ids: Collection[int] = (),
    tokenizer: Any,
) -> TextStream:
    """Like `generate` for one prompt, giving the text while it is made.

    Raises:
        ValueError: as `generate`; also if more than one sequence is asked for, or the model has no tokenizer.
    """
    check_prompts(network, [prompt], config, tokenizer)
    if tokenizer is None:
        raise ValueError("stream: the model has no tokenizer to make text with; use generate")
    if config.num_beams != 1:
        raise ValueError(f"num_beams must be 1 for a stream of text, got {config.num_beams}")
    if config.num_return_sequences != 1:
        raise ValueError(
            f"num_return_sequences must be 1 for a stream of text, got {config.num_return_sequences}"
        )
    return TextStream(Decoding(network, [prompt], [_seed(config, 0)], config, eos_token_ids, tokenizer))


def check_prompts(
    network: Transformer, prompts: Sequence[Sequence[int]], config: GenerationConfig, tokenizer: Any
) -> None:
    """Raises ValueError for prompts or options that do not fit the network, see `generate`."""
    context, vocab_size = network.config.max_position_embeddings, network.config.vocab_size
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompts: prompt {number} is empty, expected at least one token")
        if len(prompt) >= context:
            raise ValueError(
                f"prompts: prompt {number} has {len(prompt)} tokens and leaves no room in the model's "
                f"context of {context}"
            )
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise ValueError(
                f"prompts: prompt {number} has a token outside [0, {vocab_size}): "
                f"{min(prompt) if min(prompt) < 0 else max(prompt)}"
            )
    if config.stop and tokenizer is None:
        raise ValueError(
            f"stop needs a tokenizer to look for {list(config.stop)!r} in text; the model has none"
        )
    largest = max(config.logit_bias, default=0)
    if largest >= vocab_size:
        raise ValueError(f"logit_bias: token {largest} is outside the vocabulary of {vocab_size} tokens")


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of the prompts that decode together, those of like length: they waste least on padding."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and (len(batch) == MAX_ROWS or (len(batch) + 1) * lengths[place] > MAX_PROMPT_TOKENS):
            yield batch
            batch = []
        batch.append(place)
    yield batch


def _seed(config: GenerationConfig, copy: int) -> int:
    """Seed of the copy-th completion of a prompt: the config's own for the first one."""
    if config.seed is None:
        return int(torch.randint(2**63 - 1, ()))
    return (config.seed + copy * _GOLDEN_RATIO) % 2**63
