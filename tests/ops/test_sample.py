from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops import sample
from pyllm.ops.sample import _uniform, filtered_weights, sample_reference
from tests.ops.numerics import assert_same_bits_at_any_thread_count

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"temperature": 1.5, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
]


def make_logits(rows: int, vocab: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def reference(logits: torch.Tensor, seed: int, **filters: Any) -> torch.Tensor:
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | filters
    rows = logits.shape[0]
    return sample_reference(logits, **options, seed=torch.full((rows,), seed), position=torch.arange(rows))


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_reference_at_the_same_uniform(
    isa: str, dtype: torch.dtype, filters: dict[str, Any]
) -> None:
    for vocab in (1, 33, 700):
        logits = make_logits(20, vocab).to(dtype)
        assert torch.equal(sample(logits, seed=3, **filters), reference(logits, 3, **filters))


def test_philox_known_answer() -> None:
    """Counter 0 and key 0 give 6627e8d5 e169c58d ... (the paper's known-answer vectors)."""
    assert _uniform(0, 0) == ((0xE169C58D << 32 | 0x6627E8D5) >> 11) / 2**53


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> tuple[float, int]:
    """The statistic and its degrees of freedom, classes expected under 5 times pooled."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    pooled = torch.stack([expected[rare].sum(), counts[rare].sum()])
    expected, counts = expected[~rare], counts[~rare]
    if pooled[0] > 0:
        expected, counts = torch.cat([expected, pooled[:1]]), torch.cat([counts, pooled[1:]])
    return ((counts - expected).square() / expected).sum().item(), len(expected) - 1


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("by", ["seed", "position"])
def test_draws_follow_the_filtered_distribution(filters: dict[str, Any], by: str) -> None:
    draws, vocab = 20_000, 50
    logits = make_logits(1, vocab, seed=5)
    numbers = torch.arange(draws)
    keys: dict[str, Any] = (
        {"seed": 11, "position": numbers} if by == "position" else {"seed": numbers, "position": 4}
    )
    tokens = sample(logits.expand(draws, vocab), **keys, **filters)
    weights = filtered_weights(
        logits, **({"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | filters)
    )
    probabilities = (weights / weights.sum())[0]
    counts = torch.bincount(tokens, minlength=vocab).double()
    assert (counts[probabilities == 0] == 0).all()
    statistic, freedom = chi_square(counts, probabilities)
    # Wilson and Hilferty's normal approximation; 4 sigma is 3e-5, and the seeds are fixed.
    cube_root = (statistic / freedom) ** (1 / 3)
    sigma = math.sqrt(2 / (9 * freedom))
    assert (cube_root - (1 - 2 / (9 * freedom))) / sigma < 4


def test_greedy_takes_the_first_largest(isa: str) -> None:
    logits = torch.zeros(3, 70)
    logits[0, [20, 60]] = 5.0
    logits[1] = -torch.inf
    logits[1, 69] = -1e30
    logits[2, 33] = torch.inf
    for dtype in (torch.float32, torch.bfloat16):
        tokens = sample(logits.to(dtype), temperature=0.0, top_k=3, seed=1)
        assert tokens.tolist() == [20, 69, 33]


@given(
    vocab=st.integers(1, 60),
    top_k=st.integers(0, 80),
    top_p=st.floats(0.0, 1.0),
    min_p=st.floats(0.0, 1.0),
    temperature=st.sampled_from([1e-30, 0.1, 1.0, 30.0]),
    ties=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=40, deadline=None)
def test_filter_edges(
    vocab: int, top_k: int, top_p: float, min_p: float, temperature: float, ties: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed % 1000)
    logits = torch.randn(4, vocab, generator=g, dtype=torch.float64)
    logits = logits.round() if ties else logits
    filters: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    tokens = sample(logits, seed=seed, **filters)
    kept = filtered_weights(logits, **filters) > 0
    assert kept.any(-1).all()
    assert kept.gather(-1, tokens[:, None]).all()
    assert (kept.sum(-1) <= (top_k or vocab)).all()
    assert torch.equal(tokens, reference(logits, seed, **filters))


def test_order_of_the_filters() -> None:
    # Probabilities 0.4, 0.3, 0.2, 0.1: top_k first makes 0.57 and 0.43 of the first two, so top_p 0.5 leaves one.
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(500, 4)
    assert set(sample(logits, seed=0, top_p=0.5).tolist()) == {0, 1}
    assert set(sample(logits, seed=0, top_k=2, top_p=0.5).tolist()) == {0}
    assert set(sample(logits, seed=0, min_p=1.0).tolist()) == {0}
    assert set(sample(logits, seed=0, min_p=0.74).tolist()) == {0, 1}
    # Temperature comes before min_p: 3/4 at temperature 1 is 9/16 at temperature 1/2.
    assert set(sample(logits, seed=0, min_p=0.74, temperature=0.5).tolist()) == {0}
    assert set(sample(logits, seed=0, top_p=0.0).tolist()) == {0}


def test_ties_rank_by_id(isa: str) -> None:
    logits = torch.zeros(400, 40)
    assert set(sample(logits, seed=1, top_k=3).tolist()) == {0, 1, 2}
    assert set(sample(logits, seed=1, top_p=0.1).tolist()) == {0, 1, 2, 3}
    assert len(set(sample(logits, seed=1, min_p=1.0).tolist())) == 40


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_neighbours_do_not_matter(isa: str, filters: dict[str, Any]) -> None:
    logits = make_logits(6, 300)
    seed, position = torch.arange(6) * 7, torch.arange(6) + 100
    together = sample(logits, seed=seed, position=position, **filters)
    assert torch.equal(
        sample(logits.view(2, 3, 300), seed=seed.view(2, 3), position=position.view(2, 3), **filters),
        together.view(2, 3),
    )
    for i in range(6):
        alone = sample(logits[i], seed=int(seed[i]), position=int(position[i]), **filters)
        assert alone.shape == ()
        assert alone == together[i]
    flipped = sample(logits.flip(0), seed=seed.flip(0), position=position.flip(0), **filters)
    assert torch.equal(flipped.flip(0), together)
    assert_same_bits_at_any_thread_count(lambda: [sample(logits, seed=seed, position=position, **filters)])


def test_torch_generator_gives_the_seed() -> None:
    logits = torch.zeros(8, 1000)
    torch.manual_seed(4)
    first, second = sample(logits), sample(logits)
    torch.manual_seed(4)
    assert torch.equal(sample(logits), first)
    assert not torch.equal(first, second)
    assert len(set(first.tolist())) > 1


def test_shapes_strides_and_infinities(isa: str) -> None:
    logits = make_logits(4, 90)
    expected = sample(logits[:, ::3].contiguous(), seed=1)
    assert torch.equal(sample(logits[:, ::3], seed=1), expected)
    assert sample(torch.empty(0, 5), seed=1).shape == (0,)
    assert sample(torch.empty(2, 0, 5)).shape == (2, 0)
    masked = torch.full((50, 90), -torch.inf)
    masked[:, [3, 80]] = torch.tensor([1.0, torch.inf])
    assert set(sample(masked, seed=0).tolist()) == {80}
    masked[:, 80] = 1.0
    assert set(sample(masked, seed=0, top_k=50).tolist()) == {3, 80}
    assert set(sample(masked, seed=0, temperature=1e-300).tolist()) == {3, 80}


def test_opcheck_and_compile() -> None:
    logits, numbers = make_logits(3, 20), torch.arange(3)
    torch.library.opcheck(torch.ops.pyllm.sample.default, (logits, 0.7, 5, 0.9, 0.01, numbers, numbers))
    compiled = torch.compile(
        lambda x: sample(x * 2, top_k=5, seed=3), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for rows in (3, 5):
        logits = make_logits(rows, 20)
        assert torch.equal(compiled(logits), sample(logits * 2, top_k=5, seed=3))


def test_bad_input_is_named(isa: str) -> None:
    logits = make_logits(3, 40)

    def refuses(kind: type[Exception], words: str, **changes: Any) -> None:
        arguments = {"logits": logits, "seed": 1} | changes
        with pytest.raises(kind, match=words):
            sample(**arguments)

    for value, row in ((float("nan"), 39), (float("nan"), 0)):
        bad = logits.clone()
        bad[1, row] = value
        refuses(ValueError, "NaN.*row 1", logits=bad)
        refuses(ValueError, "NaN.*row 1", logits=bad, temperature=0.0)
    refuses(ValueError, "-inf", logits=torch.full((2, 20), -torch.inf))
    refuses(ValueError, "logits must have shape", logits=torch.empty(3, 0))
    refuses(ValueError, "logits must have shape", logits=torch.tensor(1.0))
    refuses(TypeError, "logits must be", logits=torch.ones(2, 3, dtype=torch.int64))
    refuses(ValueError, "temperature", temperature=-1.0)
    refuses(ValueError, "temperature", temperature=float("nan"))
    refuses(ValueError, "top_k", top_k=-1)
    refuses(ValueError, "top_p", top_p=1.5)
    refuses(ValueError, "top_p", top_p=float("nan"))
    refuses(ValueError, "min_p", min_p=-0.1)
    refuses(ValueError, "seed", seed=-1)
    refuses(ValueError, "seed", seed=2**63)
    refuses(ValueError, "seed must have shape", seed=torch.arange(2))
    refuses(TypeError, "position must be", position=torch.ones(3))
