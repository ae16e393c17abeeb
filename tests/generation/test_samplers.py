"""What the engine draws, against the distributions that transformers' warpers give in float64: chi-square tests."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from pyllm.generation import GenerationConfig, generate
from tests.generation.stand_in import VOCAB, Network

WARPERS = {
    "typical_p": TypicalLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}
SEQUENCES, STEPS, SIGNIFICANCE = 30, 150, 1e-6
# A steep distribution with a long tail, in no order.
LOGITS = 6 * torch.rand(VOCAB, generator=torch.Generator().manual_seed(1)) ** 3


def expected(options: dict[str, float]) -> torch.Tensor:
    """Probabilities (vocabulary,), float64."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(options["temperature"]))])
    warpers.extend(WARPERS[name](options[name]) for name in WARPERS if name in options)
    return torch.softmax(warpers(None, LOGITS.double()[None]), -1)[0]


def chi_square_p(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Chance of counts that stand off at least so far; cells that expect fewer than 5 are one cell."""
    expectation = probabilities * counts.sum()
    rare = expectation < 5
    cells = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expectation = torch.cat([expectation[~rare], expectation[rare].sum()[None]])
    cells, expectation = cells[expectation > 0], expectation[expectation > 0]
    statistic = ((cells - expectation) ** 2 / expectation).sum()
    freedom = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"temperature": 1.0, "top_k": 12},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 1.0, "min_p": 0.15},
        {"temperature": 1.0, "typical_p": 0.5},
        {"temperature": 0.8, "typical_p": 0.9, "top_k": 60, "top_p": 0.9, "min_p": 0.02},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
def test_draws_follow_the_distribution(options: dict[str, float]) -> None:
    config = GenerationConfig(
        max_new_tokens=STEPS, num_return_sequences=SEQUENCES, seed=7, ignore_eos=True, **options
    )
    completions = generate(Network(lambda history: LOGITS), [[1]], config)
    drawn = torch.tensor([completion.token_ids for completion in completions]).flatten()
    counts, probabilities = torch.bincount(drawn, minlength=VOCAB), expected(options)
    assert not counts[probabilities == 0].any()
    assert chi_square_p(counts.double(), probabilities) > SIGNIFICANCE
    # The test sees what it is for: half the temperature would not pass.
    tilted = torch.softmax(torch.log(probabilities) * 2, -1)
    assert chi_square_p(counts.double(), tilted) < SIGNIFICANCE


def test_seeds_give_the_same_text_at_any_batch_size() -> None:
    def draw(count: int) -> list[list[int]]:
        prompts = [[n] for n in range(count)]
        config = GenerationConfig(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3, ignore_eos=True)
        return [c.token_ids for c in generate(Network(lambda history: LOGITS), prompts, config)]

    together = draw(70)
    assert draw(1) == together[:1]
    assert draw(9) == together[:9]
