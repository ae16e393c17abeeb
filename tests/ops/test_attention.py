from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyllm.ops import attention
from tests.ops.attention_cases import LONG, VARIANTS, Case, ours, plain
from tests.ops.numerics import check_op

BY_NAME = {case.name: case for case in [*VARIANTS, *LONG]}
SEED = 5


def seeded(case: Case) -> Case:
    """The case for the plain reference: with the dropout seed that the op will draw after manual_seed(SEED)."""
    if not case.options.get("dropout_p"):
        return case
    torch.manual_seed(SEED)
    seed = torch.randint(0, 2**62, (), dtype=torch.int64)
    return replace(case, options={**case.options, "dropout_seed": seed})


def check_case(case: Case, dtype: torch.dtype) -> None:
    def op(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(SEED)
        return ours(case)(*inputs)

    draws = 16 if case.name == "bias_scalar" else 1  # its gradient is one number
    check_op(op, plain(seeded(case)), *(case.inputs(dtype, seed) for seed in range(draws)))


@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_error_rule(isa: str, case: Case) -> None:
    check_case(case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["causal", "odd_dims", "bias_shared", "dropout", "everything"])
def test_error_rule_in_16_bits(isa: str, name: str, dtype: torch.dtype) -> None:
    check_case(BY_NAME[name], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", LONG, ids=str)
def test_error_rule_over_many_blocks(isa: str, case: Case, dtype: torch.dtype) -> None:
    if isa == "scalar":
        pytest.skip("the reference knows no blocks")
    check_case(case, dtype)


@pytest.mark.parametrize("name", ["full", "causal", "multi_query", "boolean", "bias", "bias_of_keys"])
def test_agrees_with_torch(name: str) -> None:
    case = replace(BY_NAME[name], kv_len=37)
    q, k, v, bias, _ = case.inputs(torch.float32)
    mask = case.options.get("attn_mask", bias)
    causal, scale = case.options.get("is_causal", False), case.options.get("scale")
    options = {"attn_mask": mask, "is_causal": causal, "scale": scale}
    out = attention(q, k, v, **options)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
    wanted = [x for x in (q, k, v, bias) if x is not None]
    upstream = torch.randn_like(out)
    torch.testing.assert_close(out, expected)
    for mine, theirs in zip(
        torch.autograd.grad(out, wanted, upstream),
        torch.autograd.grad(expected, wanted, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True, "softcap": 2.0, "scale": 0.7},
        {"window": 2, "sink_tokens": 1, "prefix_length": 2, "alibi_slopes": torch.tensor([0.3, 0.1])},
        {"dropout_p": 0.4, "kv_lengths": torch.tensor([3, 5])},
    ],
    ids=["plain", "softcap", "intervals", "dropout"],
)
def test_gradcheck(options: dict[str, Any]) -> None:
    case = Case("", heads=2, kv_heads=1, q_len=3, kv_len=5, head_dim=2, mask_shape=(2, 3, 5), sink=True)

    def op(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(SEED)
        return ours(replace(case, options=options))(*inputs)

    assert torch.autograd.gradcheck(op, case.inputs(torch.float64))


def test_gradcheck_packed() -> None:
    case = Case("", batch=1, heads=2, kv_heads=1, q_len=5, kv_len=7, head_dim=2)
    packed = [x.detach()[0].transpose(0, 1).requires_grad_() for x in case.inputs(torch.float64)[:3]]
    ends = {"cu_seqlens_q": torch.tensor([0, 2, 2, 5]), "cu_seqlens_k": torch.tensor([0, 3, 4, 7])}
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, is_causal=True, **ends), packed)


def op_arguments(case: Case, **changes: Any) -> tuple[Any, ...]:
    """Arguments of torch.ops.pyllm.attention in the order of its schema."""
    q, k, v, mask, sink = case.inputs(torch.float32)
    tensors = {"attn_mask": mask, "sink_logits": sink} | dict.fromkeys(
        ["alibi_slopes", "prefix_length", "kv_lengths", "cu_seqlens_q", "cu_seqlens_k", "dropout_seed"]
    )
    numbers = {"is_causal": False, "scale": None, "window": None, "sink_tokens": 0, "softcap": None}
    options = {**tensors, **numbers, "dropout_p": 0.0}
    assert changes.keys() <= options.keys()
    return (q, k, v, *{**options, **changes}.values())


OP_CALLS = [
    op_arguments(Case("", q_len=5, kv_len=6, head_dim=8), is_causal=True),
    op_arguments(
        Case("", q_len=4, kv_len=6, head_dim=8, mask_shape=(4, 1, 6), sink=True, value_dim=3),
        window=3,
        sink_tokens=1,
        scale=0.3,
        softcap=2.0,
        alibi_slopes=torch.rand(4),
        prefix_length=torch.tensor([1, 2]),
        kv_lengths=torch.tensor([6, 4], dtype=torch.int32),
        dropout_seed=torch.tensor(3),
        dropout_p=0.2,
    ),
    op_arguments(
        Case("", batch=1, q_len=5, kv_len=5, head_dim=8),
        is_causal=True,
        cu_seqlens_q=torch.tensor([0, 2, 5]),
        cu_seqlens_k=torch.tensor([0, 2, 5]),
    ),
]


@pytest.mark.parametrize("arguments", OP_CALLS, ids=["causal", "everything", "packed"])
def test_opcheck(arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(torch.ops.pyllm.attention.default, arguments)
    detached = [x.detach() if isinstance(x, Tensor) else x for x in arguments]
    out, lse = torch.ops.pyllm.attention.default(*detached)
    backward = (torch.randn_like(out), torch.randn_like(lse), out, lse, *detached, detached[3] is not None)
    torch.library.opcheck(torch.ops.pyllm.attention_backward.default, backward)


def compiled_agrees(backend: str) -> None:
    def f(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int, dropout_p: float) -> Tensor:
        out, lse = attention(q * 2, k, v, attn_mask=bias, window=window, dropout_p=dropout_p, return_lse=True)
        return out.sin().sum() + lse.sum()

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend=backend)
    for length in (5, 9):
        q, k, v, bias, _ = Case("", q_len=length, kv_len=length, mask_shape=(length, length)).inputs(
            torch.float32
        )
        for dropout_p in (0.0, 0.5):
            results = []
            for function in (compiled, f):
                torch.manual_seed(SEED)
                loss = function(q, k, v, bias, 4, dropout_p)
                results.append([loss, *torch.autograd.grad(loss, (q, k, v, bias))])
            if dropout_p == 0 or backend == "aot_eager":  # inductor draws other seeds
                torch.testing.assert_close(*results)


def test_compiles_with_dynamic_shapes() -> None:
    compiled_agrees("aot_eager")


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    compiled_agrees("inductor")


def test_compiles_packed_and_padded() -> None:
    def f(q: Tensor, lengths: Tensor, ends: Tensor) -> Tensor:
        padded = attention(q, q, q, is_causal=True, kv_lengths=lengths, prefix_length=2)
        flat = q.transpose(1, 2).flatten(0, 1)
        packed = attention(flat, flat, flat, is_causal=True, cu_seqlens_q=ends, cu_seqlens_k=ends)
        return padded.sum() + packed.sum()

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (4, 6):
        q = torch.randn(2, 3, length, 8)
        arguments = (q, torch.tensor([length, 3]), torch.tensor([0, length + 1, 2 * length]))
        torch.testing.assert_close(compiled(*arguments), f(*arguments))


def test_autocast_lowers_q_k_v_only() -> None:
    q, k, v, bias, sink = Case("", mask_shape=(37, 37), sink=True).inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q, k.bfloat16(), v, attn_mask=bias, sink_logits=sink, is_causal=True)
        masked = attention(q, k, v, attn_mask=torch.ones(37, 37, dtype=torch.bool))
    low = [x.bfloat16() for x in (q, k, v)]
    assert masked.dtype == torch.bfloat16
    assert torch.equal(out, attention(*low, attn_mask=bias, sink_logits=sink, is_causal=True))
    grads = torch.autograd.grad(out.float().sum(), (q, bias, sink))
    assert all(g.dtype == torch.float32 for g in grads)


def test_out_is_laid_out_for_the_projection_that_follows() -> None:
    q, k, v, *_ = Case("").inputs(torch.bfloat16)
    out, lse = attention(q, k, v, return_lse=True)
    assert out.transpose(1, 2).is_contiguous()
    assert lse.dtype == torch.float32
    assert attention(q.double(), k.double(), v.double(), return_lse=True)[1].dtype == torch.float64


def test_dropout_draws_are_seeded_and_scaled() -> None:
    q, k = torch.zeros(1, 2, 50, 8), torch.zeros(1, 2, 64, 8)
    v = torch.eye(64).expand(1, 2, 64, 64)  # out = the weights after dropout
    torch.manual_seed(1)
    first = attention(q, k, v, dropout_p=0.25)
    second = attention(q, k, v, dropout_p=0.25)
    torch.manual_seed(1)
    assert torch.equal(first, attention(q, k, v, dropout_p=0.25))
    assert not torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert set(first.unique().tolist()) == {0.0, (torch.tensor(1 / 64) / 0.75).item()}
    assert abs((first == 0).double().mean().item() - 0.25) < 0.02
    assert not attention(q, k, v, dropout_p=1.0).any()


def test_recomputation_repeats_the_dropout() -> None:
    q, k, v, *_ = Case("").inputs(torch.float32)

    def block(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, is_causal=True, dropout_p=0.5).square().sum()

    torch.manual_seed(SEED)
    kept = torch.autograd.grad(block(q, k, v), (q, k, v))
    torch.manual_seed(SEED)
    recomputed = torch.autograd.grad(checkpoint(block, q, k, v, use_reentrant=False), (q, k, v))
    for a, b in zip(kept, recomputed, strict=True):
        assert torch.equal(a, b)


def test_meta_tensors_give_shapes() -> None:
    q, k = torch.empty(2, 4, 5, 8, device="meta"), torch.empty(2, 2, 6, 8, device="meta")
    lengths = torch.empty(2, dtype=torch.int64, device="meta")
    out, lse = attention(q, k, k, kv_lengths=lengths, return_lse=True)
    assert (out.shape, lse.shape, out.device.type) == (q.shape, (2, 4, 5), "meta")


def bad_calls() -> list[tuple[str, type[Exception], dict[str, Any]]]:
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 6, 8)
    packed = {"q": torch.randn(4, 4, 8), "k": torch.randn(4, 2, 8), "v": torch.randn(4, 2, 8)}
    ends = torch.tensor([0, 4])
    return [
        ("q must be", ValueError, {"q": q[0]}),
        ("q must be", TypeError, {"q": q.long()}),
        ("k must have the dtype", TypeError, {"k": k.half()}),
        ("k must have q's head_dim", ValueError, {"k": k[..., :7]}),
        ("k must have q's batch", ValueError, {"k": k[:1], "v": k[:1]}),
        ("v must have k's shape", ValueError, {"v": k[:, :, :5]}),
        ("q's heads must be a multiple", ValueError, {"q": q[:, :3]}),
        ("attn_mask must be bool", TypeError, {"attn_mask": torch.ones(5, 6, dtype=torch.int64)}),
        ("attn_mask must broadcast", ValueError, {"attn_mask": torch.zeros(5, 5)}),
        ("sink_logits", ValueError, {"sink_logits": torch.zeros(2)}),
        ("sink_logits", TypeError, {"sink_logits": torch.zeros(4, dtype=torch.int64)}),
        ("alibi_slopes", ValueError, {"alibi_slopes": torch.zeros(4, requires_grad=True)}),
        ("window", ValueError, {"window": 0}),
        ("sink_tokens", ValueError, {"sink_tokens": -1}),
        ("softcap", ValueError, {"softcap": 0.0}),
        ("softcap", ValueError, {"softcap": float("nan")}),
        ("scale", ValueError, {"scale": float("nan")}),
        ("dropout_p", ValueError, {"dropout_p": 1.5}),
        ("prefix_length", ValueError, {"prefix_length": -1}),
        ("prefix_length", ValueError, {"prefix_length": torch.tensor([1, 2, 3])}),
        ("prefix_length", ValueError, {"prefix_length": torch.tensor([1, -2])}),
        ("kv_lengths", TypeError, {"kv_lengths": torch.tensor([1.0, 2.0])}),
        ("kv_lengths", ValueError, {"kv_lengths": torch.tensor([3])}),
        ("kv_lengths", ValueError, {"kv_lengths": torch.tensor([3, 7])}),
        ("cu_seqlens_k", ValueError, {**packed, "cu_seqlens_q": ends}),
        ("cu_seqlens_q", ValueError, {**packed, "cu_seqlens_q": torch.tensor([0, 3]), "cu_seqlens_k": ends}),
        ("cu_seqlens_k", ValueError, {**packed, "cu_seqlens_q": ends, "cu_seqlens_k": torch.tensor([0, 5])}),
        ("attn_mask", ValueError, {**packed, "cu_seqlens_q": ends, "cu_seqlens_k": ends, "attn_mask": q}),
    ]


@pytest.mark.parametrize(("message", "error", "changes"), bad_calls())
def test_bad_input_is_named(message: str, error: type[Exception], changes: dict[str, Any]) -> None:
    arguments = {
        "q": torch.randn(2, 4, 5, 8),
        "k": torch.randn(2, 2, 6, 8),
        "v": torch.randn(2, 2, 6, 8),
        **changes,
    }
    with pytest.raises(error, match=message):
        attention(**arguments)
