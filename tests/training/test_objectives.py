from __future__ import annotations

import numpy as np
import pytest
import torch

from pyllm.data import Row, collate
from pyllm.models import ModelConfig, Transformer
from pyllm.training import Trainer, TrainingConfig
from pyllm.training.objectives import language_modelling
from tests.training.tiny import VOCABULARY, build, cross_entropy, rows


def transformer(seed: int = 0, *, tied: bool = False) -> Transformer:
    config = ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Transformer(config)


def row(*documents: list[int], weights: list[float] | None = None) -> Row:
    ids = np.concatenate([np.array(document) for document in documents])
    numbers = np.concatenate([np.full(len(document), n) for n, document in enumerate(documents)])
    return Row(ids, np.ones(len(ids)) if weights is None else np.array(weights), numbers)


def gradients(model: torch.nn.Module, *batch: Row) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Weighted sum, weight count and gradients of one batch."""
    model.zero_grad()
    weighted_sum, weight_count = language_modelling(model, collate(batch))
    weighted_sum.backward()
    return weighted_sum.item(), weight_count.item(), {n: p.grad.clone() for n, p in model.named_parameters()}


def test_equals_plain_torch_in_value_and_gradient() -> None:
    data = rows(24)
    ours, plain = build().double(), build().double()
    weighted_sum, weight_count = language_modelling(ours, collate(data))
    weighted_sum.backward()
    expected_sum, expected_count = cross_entropy(plain, collate(data))
    expected_sum.backward()
    assert weight_count.item() == pytest.approx(expected_count.item())
    assert weighted_sum.item() == pytest.approx(expected_sum.item())
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("tied", [False, True])
def test_packing_is_the_sum_of_its_documents(tied: bool) -> None:
    model = transformer(tied=tied)
    documents = [[5, 6, 7, 8, 9, 10, 11], [20, 30, 40], [1, 2], [50, 49, 48, 47, 46]]
    packed_sum, packed_count, packed = gradients(model, row(*documents))
    apart = [gradients(model, row(document)) for document in documents]
    assert packed_count == sum(count for _, count, _ in apart) == 13
    assert packed_sum == pytest.approx(sum(loss for loss, _, _ in apart), rel=1e-5)
    for name, gradient in packed.items():
        expected = sum(one[name] for _, _, one in apart)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_a_document_never_feels_its_neighbours() -> None:
    """Loss on B alone: A's tokens get no gradient at all, and what A says does not move a bit."""
    model = transformer()
    b = [30, 31, 32, 33, 34, 35]
    results = []
    for a in ([1, 2, 3, 4, 5], [10, 11, 12, 13, 14]):
        loss, count, gradient = gradients(model, row(a, b, weights=[0] * 5 + [1] * 6))
        assert count == 5
        assert gradient["model.embed_tokens.weight"][a].abs().max() == 0
        assert gradient["model.embed_tokens.weight"][b[:-1]].abs().min(dim=1).values.max() > 0
        results.append((loss, gradient))
    assert results[0][0] == results[1][0]
    moved = {
        name for name, gradient in results[0][1].items() if not torch.equal(gradient, results[1][1][name])
    }
    assert moved <= {"model.embed_tokens.weight"}


def test_padding_and_unweighted_tokens_count_for_nothing() -> None:
    model = transformer()
    short, long = row([5, 6, 7]), row([9] * 20, weights=[0.0] * 20)
    alone = gradients(model, short)
    padded = gradients(model, short, long)
    assert padded[1] == alone[1] == 2
    assert padded[0] == pytest.approx(alone[0], rel=1e-6)
    for name, gradient in alone[2].items():
        torch.testing.assert_close(padded[2][name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bf16", [False, True])
def test_accumulation_of_a_transformer(bf16: bool) -> None:
    tolerance = {"rtol": 5e-2, "atol": 5e-3} if bf16 else {"rtol": 1e-4, "atol": 1e-6}
    results = []
    for size, accumulation in [(8, 1), (4, 2), (1, 8)]:
        model = transformer()
        config = TrainingConfig(
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            bf16=bf16,
            max_grad_norm=0.0,
        )
        # Our optimizer divides as it goes and would leave sums in .grad.
        sgd = torch.optim.SGD(model.parameters(), lr=0.0)
        Trainer(model, language_modelling, rows(32, seed=3), config, optimizer=sgd).train()
        results.append([parameter.grad for parameter in model.parameters()])
    for other in results[1:]:
        for expected, actual in zip(results[0], other, strict=True):
            assert expected.dtype == torch.float32
            torch.testing.assert_close(actual, expected, **tolerance)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_default_optimizer_learns(bf16: bool) -> None:
    model = transformer(tied=True)
    config = TrainingConfig(max_steps=25, learning_rate=2e-2, warmup_steps=3, eval_on_start=True, bf16=bf16)
    evaluations: list[float] = []
    result = Trainer(
        model,
        language_modelling,
        rows(64),
        config,
        eval_data=rows(16, seed=8),
        callbacks=[lambda report: evaluations.append(report.eval_loss) if report.eval_loss else None],
    ).train()
    assert result.eval_loss is not None
    assert result.eval_loss == evaluations[-1] < 0.7 * evaluations[0]
