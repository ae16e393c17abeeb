"""How to continue a prompt: every option, with its meaning, default and legal range."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Fields whose search is not built yet: (name, the value that leaves it off).
_LATER = (
    ("num_beam_groups", 1),
    ("diversity_penalty", 0.0),
    ("penalty_alpha", 0.0),
    ("dola_layers", None),
)


@dataclass(frozen=True)
class GenerationConfig:
    """Options of `Model.generate` and `Model.stream`, under Hugging Face's names and, where it has none, OpenAI's.

    The default is greedy decoding of at most 256 tokens. Differences from transformers: there is no `do_sample`,
    a `temperature` above 0 samples; `top_k` is off (0) unless set, not 50; `max_new_tokens` is 256, not 20.

    Logits are changed in this order: repetition_penalty, presence_penalty and frequency_penalty, logit_bias,
    no_repeat_ngram_size, min_new_tokens; then temperature, typical_p, top_k, top_p, min_p.

    Attributes:
        max_new_tokens: most tokens to add; fewer where the model's context ends first.
        min_new_tokens: an end-of-sequence token cannot be chosen, and stop strings are not looked for, before this
            many tokens.
        temperature: 0 takes the most likely token; otherwise logits are divided by it and a token is drawn.
        top_k: draw from the k most likely tokens; 0 means all.
        top_p: draw from the smallest set of most likely tokens whose probability reaches top_p; 1 means all.
        min_p: draw from tokens at least min_p times as likely as the most likely one; 0 means all.
        typical_p: draw from the tokens whose information is nearest to the expected one and that together reach this
            probability (arXiv 2202.00666); 1 means all.
        num_beams: above 1 searches with so many beams; temperature must be 0, and stop strings, `logprobs` and
            streams are not available.
        length_penalty: beams are compared by their log-probability divided by their length to this power.
        early_stopping: True ends a search once `num_beams` answers are finished; False once none of the running beams
            would beat them at its present length; "never" once none would at any length.
        repetition_penalty: logits of tokens in prompt or completion are divided by it where positive and multiplied
            where negative (arXiv 1909.05858); 1 is off.
        no_repeat_ngram_size: no n-gram of prompt and completion occurs twice; 0 is off.
        presence_penalty, frequency_penalty: subtracted from the logits of tokens of the completion, once, and once
            per occurrence.
        logit_bias: token id -> number added to its logit; -inf bans a token.
        num_return_sequences: completions per prompt; more than one needs a temperature above 0 or as many beams.
        stop: a string or several; the text ends before the first one that appears.
        seed: same seed, same prompt, same text, whatever else is in the batch. None draws one from torch's global
            generator.
        logprobs: n > 0 keeps the n most likely tokens of each step in `Completion.top_logprobs`. The log-probability
            of the chosen token is always kept; True, False and None ask for nothing more.
        ignore_eos: end-of-sequence tokens do not end the text.
        num_beam_groups, diversity_penalty, penalty_alpha, dola_layers: reserved; any value but the default raises until
            their search is available.

    Raises:
        ValueError: a value out of its range or of the wrong type; names the field.
    """

    max_new_tokens: int = 256
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    penalty_alpha: float = 0.0
    dola_layers: str | Sequence[int] | None = None
    num_return_sequences: int = 1
    stop: str | Sequence[str] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name, off in _LATER:
            if type(getattr(self, name)) not in (type(off), int) or getattr(self, name) != off:
                raise ValueError(
                    f"{name} is not available yet, leave it at {off!r}; got {getattr(self, name)!r}"
                )
        _check_integer(self, "max_new_tokens", low=1)
        _check_integer(self, "min_new_tokens", low=0, high=self.max_new_tokens)
        _check_integer(self, "num_return_sequences", low=1)
        _check_integer(self, "top_k", low=0)
        _check_integer(self, "no_repeat_ngram_size", low=0)
        _check_number(self, "temperature", low=0.0)
        _check_number(self, "top_p", low=0.0, high=1.0, open_low=True)
        _check_number(self, "min_p", low=0.0, high=1.0)
        _check_number(self, "typical_p", low=0.0, high=1.0, open_low=True)
        _check_number(self, "length_penalty")
        _check_integer(self, "num_beams", low=1)
        _check_number(self, "repetition_penalty", low=0.0, open_low=True)
        _check_number(self, "presence_penalty")
        _check_number(self, "frequency_penalty")
        if self.seed is not None:
            _check_integer(self, "seed", low=0, high=2**63 - 1)
        if self.logprobs is not None and not isinstance(self.logprobs, bool):
            _check_integer(self, "logprobs", low=0)
        if not isinstance(self.ignore_eos, bool):
            raise ValueError(f"ignore_eos must be True or False, got {self.ignore_eos!r}")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f'early_stopping must be True, False or "never", got {self.early_stopping!r}')
        if self.num_beams > 1:
            self._check_beams()
        elif self.num_return_sequences > 1 and self.temperature == 0:
            raise ValueError(
                "num_return_sequences above 1 needs a temperature above 0: greedy completions are all the same, "
                f"got num_return_sequences={self.num_return_sequences}, temperature={self.temperature}"
            )
        object.__setattr__(self, "stop", _checked_stop(self.stop))
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))

    def _check_beams(self) -> None:
        for name, off in (("temperature", 0), ("stop", ()), ("logprobs", None)):
            if getattr(self, name) != off:
                raise ValueError(
                    f"{name} must be {off!r} with num_beams above 1, got {getattr(self, name)!r}"
                )
        if self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences must be at most num_beams ({self.num_beams}), got {self.num_return_sequences}"
            )

    @property
    def num_top_logprobs(self) -> int:
        """How many most likely tokens are kept per step."""
        return 0 if self.logprobs is None or isinstance(self.logprobs, bool) else self.logprobs


def with_options(config: GenerationConfig | None, options: Mapping[str, Any]) -> GenerationConfig:
    """`config`, the default where None, with `options` in place of its own.

    Raises:
        TypeError: not a GenerationConfig, or an option that there is not. ValueError: as GenerationConfig.
    """
    config = GenerationConfig() if config is None else config
    if not isinstance(config, GenerationConfig):
        raise TypeError(f"config must be a GenerationConfig, got {config!r}")
    return dataclasses.replace(config, **options)


def _check_integer(config: object, name: str, *, low: int, high: int | None = None) -> None:
    value = getattr(config, name)
    integer = isinstance(value, int) and not isinstance(value, bool)
    if not integer or value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be an integer {wanted}, got {value!r}")


def _check_number(
    config: object, name: str, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False
) -> None:
    value = getattr(config, name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (open_low and value == low):
        limits = (
            f"{'(' if open_low or low == -math.inf else '['}{low}, {high}{')' if high == math.inf else ']'}"
        )
        raise ValueError(f"{name} must be a number in {limits}, got {value!r}")


def _checked_stop(stop: object) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else () if stop is None else stop
    if not isinstance(strings, (tuple, list)) or not all(isinstance(s, str) and s for s in strings):
        raise ValueError(f"stop must be a non-empty string or a list of them, got {stop!r}")
    return tuple(strings)


def _checked_bias(bias: object) -> dict[int, float]:
    if bias is None:
        return {}
    if not isinstance(bias, Mapping):
        raise ValueError(f"logit_bias must map token ids to numbers, got {bias!r}")
    for token, value in bias.items():
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise ValueError(f"logit_bias must have token ids (integers from 0) as keys, got {token!r}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or math.isnan(value) or value == math.inf:
            raise ValueError(
                f"logit_bias must map to finite numbers or -inf, got {value!r} for token {token}"
            )
    return {token: float(value) for token, value in bias.items()}
