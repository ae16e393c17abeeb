"""Beam search: the `num_beams` best beginnings of an answer are kept and continued together.

    prompt --prefill--> one row
    repeat: log-probabilities of all continuations of all beams -> the best of them
            -> those that end join the finished answers, the others are the next beams

The rules are transformers': an answer's score is the sum of its log-probabilities divided by its length to the power of
`length_penalty`; only the best `num_beams` continuations of a step may end.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyllm.generation.config import GenerationConfig
from pyllm.generation.logits import LogitsEditor, head_logits


@dataclass(frozen=True)
class Hypothesis:
    """A beginning of an answer, or a whole one.

    Attributes:
        score: sum of its tokens' edited log-probabilities; of a finished answer, divided by the length's power.
        tokens, logprobs: its tokens, and their log-probabilities under the model itself.
    """

    score: float
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@torch.inference_mode()
def beam_search(
    network: Any, prompt: Sequence[int], config: GenerationConfig, eos: Collection[int], limit: int
) -> list[Hypothesis]:
    """The best `config.num_return_sequences` answers to a prompt, best first.

    Args:
        eos: tokens that end an answer. limit: most tokens of one.
    """
    count, vocab_size = config.num_beams, network.config.vocab_size
    device = network.device
    editor = LogitsEditor(config, [prompt], vocab_size, eos, device)
    cache = network.new_cache(1)
    hidden = network.hidden_states(
        torch.tensor([list(prompt)], device=device),
        kv_cache=cache,
        input_lengths=torch.tensor([len(prompt)], device=device),
        last_token_only=True,
        **({"prefix_lengths": torch.tensor([len(prompt)])} if network.config.prefix_decoder else {}),
    )
    beams, finished = [Hypothesis(0.0)], list[Hypothesis]()
    for length in range(1, limit + 1):
        logprobs = torch.log_softmax(head_logits(hidden, network.lm_head_weight, network.logit_softcap), -1)
        candidates, parents = _continuations(beams, logprobs, editor.edit(logprobs), count, len(eos))
        ends = [length == limit or candidate.tokens[-1] in eos for candidate in candidates]
        power = length**config.length_penalty
        finished += [
            Hypothesis(candidate.score / power, candidate.tokens, candidate.logprobs)
            for candidate, end in zip(candidates[:count], ends[:count], strict=True)
            if end
        ]
        finished = sorted(finished, key=lambda hypothesis: -hypothesis.score)[:count]
        going_on = [place for place, end in enumerate(ends) if not end][:count]
        beams = [candidates[place] for place in going_on]
        if not beams or not _can_improve(beams[0].score, finished, length, limit, config):
            break
        rows = torch.tensor([parents[place] for place in going_on], device=device)
        tokens = torch.tensor([beam.tokens[-1] for beam in beams], device=device)
        cache.select(rows)
        editor.select(rows)
        editor.append(tokens)
        hidden = network.hidden_states(tokens[:, None], kv_cache=cache, last_token_only=True)
    return finished[: config.num_return_sequences]


def _continuations(
    beams: list[Hypothesis], logprobs: Tensor, edited: Tensor, count: int, num_eos: int
) -> tuple[list[Hypothesis], list[int]]:
    """The best beams longer by a token, best first, and the beams they come from: enough that `count` go on."""
    scores = edited + torch.tensor([[beam.score] for beam in beams], device=edited.device)
    wanted = min(max(2, 1 + num_eos) * count, scores.numel())
    best, places = scores.flatten().topk(wanted)
    own = logprobs.flatten()[places].tolist()
    parents = (places // scores.shape[1]).tolist()
    tokens = (places % scores.shape[1]).tolist()
    extended = [
        Hypothesis(score, (*beams[parent].tokens, token), (*beams[parent].logprobs, logprob))
        for score, parent, token, logprob in zip(best.tolist(), parents, tokens, own, strict=True)
    ]
    return extended, parents


def _can_improve(
    best: float, finished: list[Hypothesis], length: int, limit: int, config: GenerationConfig
) -> bool:
    """Whether a running beam of score `best` may still beat the worst finished answer."""
    if len(finished) < config.num_beams:
        return True
    if config.early_stopping is True:
        return False
    never = config.early_stopping == "never" and config.length_penalty > 0
    reach = limit if never else length
    return best / reach**config.length_penalty > finished[-1].score
