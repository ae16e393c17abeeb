"""What a model adds to a prompt, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pyllm.generation.config import GenerationConfig
from pyllm.generation.text import TextAssembler


@dataclass
class Completion:
    """What a model added to a prompt.

    Attributes:
        text: the new text, without the prompt, the end-of-sequence token and the stop string; empty where the model
            has no tokenizer.
        token_ids: every new token, those of the stop string and the end-of-sequence token included.
        logprobs: log-probability of each new token under the model itself: before temperature, penalties and filters;
            to the bit what `Model.log_probs` and the trainer's loss give it. Complete once `finish_reason` is set;
            while text streams they follow the tokens in stretches.
        finish_reason: "stop" (end-of-sequence token or stop string), "length" (max_new_tokens, or the context is
            full) or "cancelled"; None while it is being generated.
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


class CompletionBuilder:
    """Appends tokens to `completion` until one ends it.

    Args:
        limit: most tokens. eos_token_ids: tokens that end it. tokenizer: has `stream_decoder()`; None leaves the text
            empty.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        limit: int,
        config: GenerationConfig,
        eos_token_ids: frozenset[int],
        tokenizer: Any,
    ) -> None:
        self.completion = Completion(prompt_token_ids=list(prompt))
        if config.num_top_logprobs:
            self.completion.top_logprobs = []
        self._assembler = TextAssembler(None if tokenizer is None else tokenizer.stream_decoder(), config)
        self.limit, self._eos = limit, eos_token_ids

    def append(self, token: int) -> None:
        done, ends = self.completion, token in self._eos
        done.token_ids.append(token)
        if not ends:
            self._assembler.feed(token)
        if ends or self._assembler.stopped:
            self.finish("stop")
        elif len(done.token_ids) >= self.limit:
            self.finish("length")
        done.text = self._assembler.text

    def finish(self, reason: str) -> None:
        """Ends the completion; text that was held back is shown."""
        self._assembler.finish()
        self.completion.text, self.completion.finish_reason = self._assembler.text, reason
