"""Continuing prompts in one call: by an engine that lives as long as the call, or by beam search."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pyllm.generation.beam import beam_search
from pyllm.generation.completion import Completion, CompletionBuilder
from pyllm.generation.config import GenerationConfig
from pyllm.generation.engine import Engine
from pyllm.generation.prompts import check_prompts
from pyllm.generation.request import Request


@dataclass(frozen=True)
class _Generator:
    """A model, as an engine takes it."""

    network: Any
    tokenizer: Any
    eos_token_ids: Collection[int]


def generate(
    network: Any,
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
    if config.num_beams == 1:
        return Engine(_Generator(network, tokenizer, eos_token_ids)).generate(prompts, config)
    check_prompts(network, prompts, config, tokenizer)
    eos = frozenset(() if config.ignore_eos else eos_token_ids)
    return [found for prompt in prompts for found in _search(network, prompt, config, eos, tokenizer)]


def stream(
    network: Any,
    prompt: Sequence[int],
    config: GenerationConfig,
    *,
    eos_token_ids: Collection[int] = (),
    tokenizer: Any,
) -> Request:
    """Like `generate` for one prompt, giving the text while it is made.

    Raises:
        ValueError: as `generate`; also if more than one sequence is asked for, or the model has no tokenizer.
    """
    if tokenizer is None:
        raise ValueError("stream: the model has no tokenizer to make text with; use generate")
    return Engine(_Generator(network, tokenizer, eos_token_ids)).submit(prompt, config)


def _search(
    network: Any, prompt: Sequence[int], config: GenerationConfig, eos: frozenset[int], tokenizer: Any
) -> list[Completion]:
    """The answers that beam search finds, as completions."""
    limit = min(config.max_new_tokens, network.config.max_position_embeddings - len(prompt))
    completions = []
    for found in beam_search(network, prompt, config, eos, limit):
        builder = CompletionBuilder(prompt, limit, config, eos, tokenizer)
        for token in found.tokens:
            builder.append(token)
        builder.completion.logprobs = list(found.logprobs)
        completions.append(builder.completion)
    return completions
