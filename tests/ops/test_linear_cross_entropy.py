from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pyllm.ops import _library, linear_cross_entropy
from pyllm.ops.linear_cross_entropy import linear_cross_entropy_reference
from tests.ops.numerics import assert_same_bits_at_any_thread_count, check_op

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 3, 2), (5, 17, 33), (70, 40, 300), (2, 64, 256), (50, 300, 270)]  # tokens, hidden, vocab
EVERYTHING: dict[str, Any] = {
    "label_smoothing": 0.1,
    "z_loss": 1e-2,
    "softcap": 4.0,
    "temperature": 0.7,
    "return_lse": True,
}


def inputs(tokens: int, hidden: int, vocab: int, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """x, weight, bias, target; logits of standard deviation about 2."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, hidden, generator=g).to(dtype).requires_grad_()
    weight = (2 * hidden**-0.5 * torch.randn(vocab, hidden, generator=g)).to(dtype).requires_grad_()
    bias = torch.randn(vocab, generator=g).to(dtype).requires_grad_()
    return [x, weight, bias, torch.randint(0, vocab, (tokens,), generator=g)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_rule(isa: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, weight, bias, target = inputs(*shape, dtype)
    target[::4] = -100
    token_weight = torch.rand(shape[0])
    token_weight[1::7] = 0

    def bind(function: Any, **options: Any) -> Any:
        return lambda x, w, b: function(x, w, target, bias=b, **options)

    plain_options: list[dict[str, Any]] = [{"reduction": "none"}, {"reduction": "mean"}]
    for options in [*plain_options, {**EVERYTHING, "token_weight": token_weight, "reduction": "sum"}]:
        ours, plain = bind(linear_cross_entropy, **options), bind(linear_cross_entropy_reference, **options)
        check_op(ours, plain, [x, weight, bias])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_torch_cross_entropy(isa: str, reduction: Any) -> None:
    x, weight, _, target = (t.detach() for t in inputs(40, 24, 300, torch.float64))
    target[3:9] = 7
    expected = F.cross_entropy(
        F.linear(x, weight), target, ignore_index=7, label_smoothing=0.2, reduction=reduction
    )
    options: dict[str, Any] = {"ignore_index": 7, "label_smoothing": 0.2, "reduction": reduction}
    torch.testing.assert_close(linear_cross_entropy(x, weight, target, **options), expected)
    narrow = linear_cross_entropy(x.float(), weight.float(), target, **options)
    torch.testing.assert_close(narrow.double(), expected, rtol=1e-5, atol=1e-5)


def test_options_by_hand() -> None:
    x, weight, bias, target = (t.detach() for t in inputs(6, 5, 11, torch.float64))
    target[2] = -100
    token_weight = torch.tensor([0.5, 2.0, 3.0, 0.0, 1.0, 1.0])
    options = {**EVERYTHING, "bias": bias, "token_weight": token_weight}
    loss, lse = linear_cross_entropy(x, weight, target, **options)
    logits = 4.0 * torch.tanh((x @ weight.T + bias) / 4.0) / 0.7
    expected_lse = logits.exp().sum(-1).log()
    torch.testing.assert_close(lse, expected_lse)
    total = 0.0
    for i in (0, 1, 4, 5):
        nll = expected_lse[i] - logits[i, target[i]]
        smooth = expected_lse[i] - logits[i].mean()
        total += token_weight[i] * (0.9 * nll + 0.1 * smooth + 1e-2 * expected_lse[i] ** 2)
    torch.testing.assert_close(loss, total / 4.5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(reduction: Any) -> None:
    x, weight, bias, target = inputs(4, 3, 7, torch.float64)
    target[1] = -100
    token_weight = torch.tensor([1.0, 1.0, 0.5, 2.0])

    def everything(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> Any:
        options = {**EVERYTHING, "token_weight": token_weight, "reduction": reduction}
        return linear_cross_entropy(x, w, target, bias=b, **options)

    assert torch.autograd.gradcheck(everything, (x, weight, bias))
    assert torch.autograd.gradcheck(
        lambda x, w: linear_cross_entropy(x, w, target, reduction=reduction), (x, weight)
    )


def test_opcheck() -> None:
    x, weight, bias, target = inputs(6, 8, 20, torch.float32)
    target[1] = -100
    op, backward = torch.ops.pyllm.linear_cross_entropy, torch.ops.pyllm.linear_cross_entropy_backward
    weights = torch.rand(6, dtype=torch.float64)
    options = (-100, 0.1, 1e-3, 5.0, 0.9)
    torch.library.opcheck(op.default, (x, weight, target, bias, weights, *options, 2, True))
    torch.library.opcheck(op.default, (x, weight, target, None, None, *options, 0, False))
    dense = [t.detach() for t in (x, weight, target, bias, weights)]
    for reduction, wanted in ((0, (True, True, True, False)), (2, (False, True, False, True))):
        loss, lse = op.default(*dense, *options, reduction, True)
        arguments = (loss, lse, *dense, lse, *options, reduction, *wanted)
        torch.library.opcheck(backward.default, arguments)
    fused = torch.ops.pyllm.linear_cross_entropy_fused.default
    torch.library.opcheck(fused, (x, weight, target, bias, weights, *options, 2, True, True, True))
    torch.library.opcheck(fused, (x, weight, target, None, None, *options, 1, True, False, False))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_with_dynamic_shapes(backend: str) -> None:
    def f(x: torch.Tensor, w: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss, lse = linear_cross_entropy(x * 2, w, target, reduction="none", return_lse=True, z_loss=1e-3)
        return (loss.sin() + lse).sum()

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend=backend)
    for tokens in (3, 5):
        x, weight, _, target = inputs(tokens, 16, 40, torch.float32)
        expected = torch.autograd.grad(f(x, weight, target), (x, weight))
        y = compiled(x, weight, target)
        torch.testing.assert_close(y, f(x, weight, target))
        torch.testing.assert_close(torch.autograd.grad(y, (x, weight)), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_at_any_thread_count(isa: str, dtype: torch.dtype) -> None:
    tokens = 40 if isa == "scalar" else 700
    x, weight, bias, target = inputs(tokens, 20, 600, dtype)
    target[::3] = -100

    def run() -> list[torch.Tensor]:
        loss = linear_cross_entropy(x, weight, target, bias=bias)
        return [loss.detach(), *torch.autograd.grad(loss, (x, weight, bias))]

    assert_same_bits_at_any_thread_count(run)


@given(
    tokens=st.integers(0, 60),
    hidden=st.integers(1, 40),
    vocab=st.integers(1, 600),
    stride=st.integers(1, 3),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=15, deadline=None)
def test_tokens_do_not_see_each_other(
    tokens: int, hidden: int, vocab: int, stride: int, seed: int, dtype: torch.dtype
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, hidden * stride, generator=g).to(dtype)[:, ::stride].requires_grad_()
    weight = torch.randn(vocab, hidden * stride, generator=g).to(dtype)[:, ::stride]
    target = torch.randint(0, vocab, (tokens * 2,), generator=g)[::2]
    loss, lse = linear_cross_entropy(x, weight, target, reduction="none", return_lse=True)
    assert loss.shape == lse.shape == (tokens,)
    grad = torch.autograd.grad(loss.sum(), x)[0]
    for i in range(0, tokens, 7):
        row = x[i : i + 1].detach().requires_grad_()
        alone, lse_alone = linear_cross_entropy(
            row, weight, target[i : i + 1], reduction="none", return_lse=True
        )
        assert torch.equal(alone, loss[i : i + 1])
        assert torch.equal(lse_alone, lse[i : i + 1])
        assert torch.equal(torch.autograd.grad(alone.sum(), row)[0], grad[i : i + 1])


@given(seed=st.integers(0, 99), shift=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_a_constant_bias_shifts_lse_alone(seed: int, shift: float) -> None:
    x, weight, _, target = (t.detach() for t in inputs(9, 12, 300, torch.float32, seed))
    bias = torch.full((300,), shift)
    loss, lse = linear_cross_entropy(x, weight, target, return_lse=True)
    shifted, shifted_lse = linear_cross_entropy(x, weight, target, bias=bias, return_lse=True)
    torch.testing.assert_close(shifted, loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shifted_lse, lse + shift, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_are_the_bits_of_linear(isa: str, dtype: torch.dtype) -> None:
    """With a vocabulary of one token, lse is its logit."""
    x, weight, bias, target = (t.detach() for t in inputs(5, 700, 3, dtype))
    for j in range(3):
        row, offset = weight[j : j + 1], bias[j : j + 1]
        _, lse = linear_cross_entropy(x, row, target * 0, bias=offset, return_lse=True)
        assert torch.equal(lse, torch.ops.pyllm.linear(x, row, offset, True)[:, 0])


def test_reductions_agree_and_ignored_tokens_do_not_matter(isa: str) -> None:
    x, weight, bias, target = inputs(30, 10, 50, torch.float32)
    target[::2] = -100
    each = linear_cross_entropy(x, weight, target, bias=bias, reduction="none")
    assert (each[::2] == 0).all()
    torch.testing.assert_close(
        linear_cross_entropy(x, weight, target, bias=bias, reduction="sum"), each.sum()
    )
    mean = linear_cross_entropy(x, weight, target, bias=bias)
    torch.testing.assert_close(mean, each.sum() / 15)
    kept = linear_cross_entropy(x[1::2], weight, target[1::2], bias=bias)
    assert torch.equal(mean, kept)
    weighted = linear_cross_entropy(x, weight, target, bias=bias, token_weight=torch.full((30,), 3.0))
    torch.testing.assert_close(weighted, mean)
    poisoned = x.detach().clone()
    poisoned[::2] = float("nan")
    assert torch.equal(linear_cross_entropy(poisoned, weight, target, bias=bias), mean)
    grads = torch.autograd.grad(mean, (x, weight, bias))
    assert (grads[0][::2] == 0).all()
    kept_grads = torch.autograd.grad(kept, (x, weight, bias))
    for grad, kept_grad in zip(grads, kept_grads, strict=True):
        assert torch.equal(grad, kept_grad)


def test_nothing_to_count_gives_zero(isa: str) -> None:
    x, weight, bias, target = inputs(4, 8, 30, torch.float32)
    empty_cases = [
        (x, torch.full_like(target, -100), None),
        (x, target, torch.zeros(4)),
        (x[:0], target[:0], None),
    ]
    for x_case, target_case, token_weight in empty_cases:
        loss = linear_cross_entropy(x_case, weight, target_case, bias=bias, token_weight=token_weight)
        assert loss.item() == 0.0
        for grad in torch.autograd.grad(loss, (x, weight, bias)):
            assert (grad == 0).all()


def test_confident_predictions_keep_their_digits(isa: str) -> None:
    weight = torch.tensor([[100.0], [92.0], [0.0]])
    loss = linear_cross_entropy(torch.ones(1, 1), weight, torch.tensor([0]))
    torch.testing.assert_close(loss.double(), torch.tensor(8.0).double().neg().exp(), rtol=1e-3, atol=0.0)


def test_masked_vocabulary_and_nan(isa: str) -> None:
    x, weight, _, target = (t.detach() for t in inputs(3, 8, 700, torch.float32))
    bias = torch.zeros(700)
    bias[:600] = -float("inf")
    loss, lse = linear_cross_entropy(x, weight, target % 100 + 600, bias=bias, return_lse=True)
    kept, kept_lse = linear_cross_entropy(x, weight[600:], target % 100, return_lse=True)
    torch.testing.assert_close(loss, kept)
    torch.testing.assert_close(lse, kept_lse)
    x[1, 2] = float("nan")
    assert linear_cross_entropy(x, weight, target, reduction="none").isnan().tolist() == [False, True, False]


def test_only_wanted_gradients_are_computed() -> None:
    x, weight, bias, target = inputs(5, 8, 30, torch.float32)
    full = torch.autograd.grad(linear_cross_entropy(x, weight, target, bias=bias), (x, weight, bias))
    for wanted in range(3):
        leaves = [t.detach().requires_grad_(i == wanted) for i, t in enumerate((x, weight, bias))]
        loss = linear_cross_entropy(leaves[0], leaves[1], target, bias=leaves[2])
        loss.backward()
        assert torch.equal(leaves[wanted].grad, full[wanted])  # type: ignore[arg-type]
        assert all(leaf.grad is None for i, leaf in enumerate(leaves) if i != wanted)
    with torch.no_grad():
        assert not linear_cross_entropy(x, weight, target).requires_grad


@pytest.mark.parametrize("vocab", [190, 700])
def test_gradients_formed_in_forward_are_those_of_backward(isa: str, vocab: int) -> None:
    """float32 and a reduction: several stretches of tokens, ragged ends, a second pass through the same graph."""
    x, weight, bias, target = inputs(150, 50, vocab, torch.float32)
    target[::5] = -100
    leaves = (x, weight, bias)
    loss = linear_cross_entropy(x, weight, target, bias=bias, z_loss=1e-3, label_smoothing=0.1)
    formed = torch.autograd.grad(2.5 * loss, leaves, retain_graph=True)
    remade = torch.autograd.grad(2.5 * loss, leaves)
    each = linear_cross_entropy(
        x, weight, target, bias=bias, z_loss=1e-3, label_smoothing=0.1, reduction="none"
    )
    apart = torch.autograd.grad(each.sum() * (2.5 / 120), leaves)
    for a, b, c in zip(formed, remade, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-6)
    assert torch.equal(
        loss,
        linear_cross_entropy(
            x.detach(), weight, target, bias=bias, z_loss=1e-3, label_smoothing=0.1, return_lse=True
        )[0],
    )


def test_an_infinite_scale_leaves_ignored_tokens_at_zero() -> None:
    x, weight, _, target = inputs(4, 8, 30, torch.float32)
    target[1] = -100
    loss = linear_cross_entropy(x, weight, target)
    grad = torch.autograd.grad(loss, x, torch.tensor(float("inf")))[0]
    assert (grad[1] == 0).all()
    assert not grad[0].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weight_gradient_in_float32_by_grad_dtype(isa: str, dtype: torch.dtype) -> None:
    x, weight, _, target = inputs(40, 20, 300, dtype)
    narrow = torch.autograd.grad(linear_cross_entropy(x, weight, target), weight)[0]
    wide = weight.detach().requires_grad_()
    wide.grad_dtype = torch.float32
    linear_cross_entropy(x, wide, target).backward()
    assert wide.grad is not None
    assert wide.grad.dtype == torch.float32
    assert torch.equal(wide.grad.to(dtype), narrow)
    assert not torch.equal(wide.grad, narrow.float())


def test_autocast_lowers_and_keeps_weights_wide() -> None:
    x, weight, bias, target = inputs(5, 8, 30, torch.float32)
    token_weight = torch.rand(5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, weight, target, bias=bias, token_weight=token_weight)
    narrow = [t.bfloat16() for t in (x, weight, bias)]
    expected = linear_cross_entropy(narrow[0], narrow[1], target, bias=narrow[2], token_weight=token_weight)
    assert torch.equal(loss, expected)
    loss.backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_peak_memory_is_far_below_the_logits() -> None:
    """Fresh process; 1024 x 32768 fp32 logits would take 128 MB, the gradients asked for take 2 MB."""
    script = """
import resource, torch
from pyllm.ops import _library, linear_cross_entropy
torch.set_num_threads(1)
x = torch.randn(1024, 16, requires_grad=True)
weight = torch.randn(32768, 16, requires_grad=True)
target = torch.randint(0, 32768, (1024,))
linear_cross_entropy(x[:64], weight[:512], target[:64] % 512).backward()
x.grad = weight.grad = None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
linear_cross_entropy(x, weight, target).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    kilobytes = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert kilobytes < 16_000


def test_without_kernels_the_reference_runs_the_same_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, target = inputs(4, 8, 30, torch.float32)
    expected = linear_cross_entropy(x, weight, target, bias=bias, **EVERYTHING)
    monkeypatch.setattr(_library, "has_kernels", lambda x: False)
    torch.testing.assert_close(linear_cross_entropy(x, weight, target, bias=bias, **EVERYTHING), expected)
    with pytest.raises(IndexError, match=r"target must be in \[0, 30\) or ignore_index, got 31"):
        linear_cross_entropy(x, weight, torch.tensor([1, 31, -100, 2]))


def test_zero_hidden_is_the_bias_alone(isa: str) -> None:
    bias = torch.randn(300)
    target = torch.tensor([0, 299])
    loss = linear_cross_entropy(torch.empty(2, 0), torch.empty(300, 0), target, bias=bias)
    torch.testing.assert_close(loss, F.cross_entropy(bias.expand(2, 300), target))


def test_bad_input_is_named() -> None:
    x, weight, bias, target = inputs(4, 8, 30, torch.float32)

    def refuses(kind: type[Exception], words: str, **changes: Any) -> None:
        arguments = {"x": x, "weight": weight, "target": target} | changes
        with pytest.raises(kind, match=words):
            linear_cross_entropy(**arguments)

    refuses(ValueError, "weight must have shape", weight=weight[:, :7])
    refuses(ValueError, "weight must have at least one row", weight=weight[:0])
    refuses(ValueError, "target must have shape", target=target[:3])
    refuses(ValueError, "bias must have shape", bias=bias[:3])
    refuses(ValueError, "token_weight must have the shape", token_weight=torch.ones(3))
    refuses(ValueError, "token_weight must not require", token_weight=torch.ones(4, requires_grad=True))
    refuses(TypeError, "token_weight must be floating", token_weight=target)
    refuses(TypeError, "x must be", x=target.view(4, 1).expand(4, 8))
    refuses(TypeError, "weight must have the dtype", weight=weight.bfloat16())
    refuses(TypeError, "bias must have the dtype", bias=bias.bfloat16())
    refuses(TypeError, "target must be int64", target=target.int())
    refuses(
        IndexError,
        r"target must be in \[0, 30\) or ignore_index, got 30 at element 2",
        target=torch.tensor([1, -100, 30, 5]),
    )
    refuses(IndexError, "got -1", target=torch.tensor([1, 2, 3, -1]))
    for name, bad in {
        "label_smoothing": [-0.1, 1.1, float("nan")],
        "z_loss": [-1.0, float("inf"), float("nan")],
        "softcap": [0.0, -1.0, float("nan")],
        "temperature": [0.0, float("inf"), float("nan")],
        "reduction": ["average"],
    }.items():
        for value in bad:
            refuses(ValueError, name, **{name: value})
