"""What any attention must satisfy, on shapes and masks that hypothesis chooses."""

from __future__ import annotations

import mmap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyllm.ops import attention

LENGTHS = st.integers(1, 40)
SEEDS = st.integers(0, 999)
few = settings(max_examples=10, deadline=None)


def normal(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g).requires_grad_() for shape in shapes]


def qkv(
    seed: int, q_len: int, kv_len: int, heads: int = 4, kv_heads: int = 2, batch: int = 2
) -> list[Tensor]:
    return normal(seed, (batch, heads, q_len, 8), (batch, kv_heads, kv_len, 8), (batch, kv_heads, kv_len, 8))


def with_grads(wanted: list[Tensor], *arguments: Tensor, **options: Any) -> list[Tensor]:
    """out, and the gradients of `wanted` under a fixed upstream gradient."""
    out = attention(*arguments, **options)
    upstream = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, wanted, upstream)]


def assert_near(mine: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@given(q_len=LENGTHS, kv_len=LENGTHS, seed=SEEDS)
@few
def test_order_of_keys_does_not_matter(q_len: int, kv_len: int, seed: int) -> None:
    q, k, v = qkv(seed, q_len, kv_len)
    (bias,) = normal(seed + 1, (q_len, kv_len))
    order = torch.randperm(kv_len, generator=torch.Generator().manual_seed(seed))
    whole = with_grads([q, k, v, bias], q, k, v, attn_mask=bias)
    shuffled = with_grads([q, k, v, bias], q, k[:, :, order], v[:, :, order], attn_mask=bias[:, order])
    assert_near(whole, shuffled)


@given(q_len=LENGTHS, kv_len=st.integers(2, 40), seed=SEEDS, data=st.data())
@few
def test_parts_of_the_keys_merge_by_lse(q_len: int, kv_len: int, seed: int, data: st.DataObject) -> None:
    q, k, v = qkv(seed, q_len, kv_len)
    cut = data.draw(st.integers(1, kv_len - 1))
    whole, lse = attention(q, k, v, return_lse=True)
    parts = [attention(q, k[:, :, s], v[:, :, s], return_lse=True) for s in (slice(cut), slice(cut, None))]
    merged = sum(out * torch.exp(part - lse)[..., None] for out, part in parts)
    torch.testing.assert_close(merged, whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.logaddexp(parts[0][1], parts[1][1]), lse, atol=1e-5, rtol=1e-5)
    # The gradient through lse makes merging differentiable.
    theirs = torch.autograd.grad(attention(q, k, v).sum(), (q, k, v))
    assert_near(list(torch.autograd.grad(merged.sum(), (q, k, v))), list(theirs))


@given(
    lengths=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=4),
    options=st.sampled_from(
        [{}, {"is_causal": True}, {"window": 3, "sink_tokens": 1}, {"prefix_length": 2, "is_causal": True}]
    ),
    narrow=st.booleans(),
    seed=SEEDS,
)
@few
def test_packed_is_a_loop_over_sequences(
    lengths: list[tuple[int, int]], options: dict[str, Any], narrow: bool, seed: int
) -> None:
    ends = torch.tensor([(0, 0), *lengths]).cumsum(0)
    q_tokens, k_tokens = ends[-1].tolist()
    q, k, v = normal(seed, (q_tokens, 4, 8), (k_tokens, 2, 8), (k_tokens, 2, 8))
    cu_q, cu_k = (ends[:, i].to(torch.int32 if narrow else torch.int64) for i in range(2))
    packed = with_grads([q, k, v], q, k, v, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, **options)
    assert packed[0].shape == q.shape
    outs = []
    for n in range(len(lengths)):
        rows, keys = slice(*cu_q[n : n + 2].tolist()), slice(*cu_k[n : n + 2].tolist())
        one = (t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys]))
        outs.append(attention(*one, **options)[0].transpose(0, 1))
    out = torch.cat(outs)
    assert torch.equal(packed[0], out)
    upstream = torch.linspace(-1, 1, out.numel()).view(out.shape)
    assert_near(packed[1:], list(torch.autograd.grad(out, (q, k, v), upstream)))


@given(q_len=LENGTHS, kv_len=LENGTHS, seed=SEEDS)
@few
def test_wide_window_and_empty_prefix_are_causal(q_len: int, kv_len: int, seed: int) -> None:
    q, k, v = qkv(seed, q_len, kv_len)
    causal = with_grads([q, k, v], q, k, v, is_causal=True)
    for options in (
        {"window": kv_len},
        {"window": 1, "sink_tokens": kv_len},
        {"is_causal": True, "prefix_length": 0},
    ):
        for a, b in zip(causal, with_grads([q, k, v], q, k, v, **options), strict=True):
            assert torch.equal(a, b)
    full = with_grads([q, k, v], q, k, v)
    for a, b in zip(full, with_grads([q, k, v], q, k, v, is_causal=True, prefix_length=kv_len), strict=True):
        assert torch.equal(a, b)


@given(
    q_len=LENGTHS, kv_len=LENGTHS, window=st.integers(1, 9), sinks=st.integers(0, 5), prefix=st.integers(0, 9)
)
@few
def test_intervals_equal_the_boolean_mask_they_stand_for(
    q_len: int, kv_len: int, window: int, sinks: int, prefix: int
) -> None:
    q, k, v = qkv(prefix, q_len, kv_len)
    i = torch.arange(q_len)[:, None] + kv_len - q_len
    j = torch.arange(kv_len)
    mask = (j < prefix) | ((j <= i) & ((j > i - window) | (j < sinks)))
    by_interval = with_grads([q, k, v], q, k, v, window=window, sink_tokens=sinks, prefix_length=prefix)
    assert_near(by_interval, with_grads([q, k, v], q, k, v, attn_mask=mask))


@given(q_len=LENGTHS, kv_len=LENGTHS, group=st.integers(1, 5), seed=SEEDS)
@few
def test_groups_equal_repeated_keys_and_values(q_len: int, kv_len: int, group: int, seed: int) -> None:
    q, k, v = qkv(seed, q_len, kv_len, heads=2 * group)
    grouped = with_grads([q, k, v], q, k, v, is_causal=True)
    # Autograd sums the gradients of the repeats.
    repeated = with_grads([q, k, v], q, *(t.repeat_interleave(group, 1) for t in (k, v)), is_causal=True)
    assert torch.equal(grouped[0], repeated[0])
    assert_near(grouped, repeated)


@given(kv_len=LENGTHS, pad=st.integers(1, 30), q_len=st.integers(1, 5), causal=st.booleans(), seed=SEEDS)
@few
def test_lengths_cut_the_keys(kv_len: int, pad: int, q_len: int, causal: bool, seed: int) -> None:
    q, k, v = qkv(seed, q_len, kv_len + pad)
    lengths = torch.tensor([kv_len, kv_len + pad])
    with torch.no_grad():  # what lies past a length may be anything
        k[0, :, kv_len:] = torch.nan
        v[0, :, kv_len:] = torch.inf
    out, *grads = with_grads([q, k, v], q, k, v, is_causal=causal, kv_lengths=lengths)
    assert all(torch.isfinite(g).all() for g in grads)
    assert not grads[1][0, :, kv_len:].any()
    for row, length in enumerate(lengths.tolist()):
        one = attention(
            q[row : row + 1], k[row : row + 1, :, :length], v[row : row + 1, :, :length], is_causal=causal
        )
        assert torch.equal(out[row], one[0])


@pytest.mark.parametrize("kind", ["boolean", "additive", "lengths", "bottom_right"])
def test_rows_without_keys_are_zero(isa: str, kind: str) -> None:
    q, k, v = qkv(3, 6, 5)
    dead = torch.zeros(2, 6, dtype=torch.bool)
    options: dict[str, Any] = {}
    if kind == "lengths":
        dead[1], options = True, {"kv_lengths": torch.tensor([5, 0])}
    elif kind == "bottom_right":
        dead[:, 0], options = True, {"is_causal": True}
    else:
        dead[:, 2] = True
        mask = ~dead[0][:, None].expand(6, 5)
        options = {
            "attn_mask": mask if kind == "boolean" else torch.zeros(6, 5).masked_fill(~mask, -torch.inf)
        }
    with torch.no_grad():
        q.masked_fill_(dead[:, None, :, None], torch.nan)  # nor does what they hold matter
    out, lse = attention(q, k, v, return_lse=True, **options)
    upstream = torch.ones_like(out).masked_fill(dead[:, None, :, None], torch.nan)
    grads = torch.autograd.grad([out, lse], (q, k, v), [upstream, torch.ones_like(lse)])
    rows = dead[:, None].expand(2, 4, 6)
    assert not out[rows].any()
    assert (lse[rows] == -torch.inf).all()
    assert torch.isfinite(out).all()
    assert torch.isfinite(lse[~rows]).all()
    assert all(torch.isfinite(g).all() for g in grads)
    assert not grads[0][rows].any()


@pytest.mark.parametrize("where", [0, 1, 2], ids=["q", "k", "v"])
def test_nan_reaches_exactly_what_attends_to_it(isa: str, where: int) -> None:
    tensors = [t.detach() for t in qkv(4, 9, 9)]
    tensors[where][0, 0, 5, 3] = torch.nan
    out = attention(*tensors, is_causal=True)
    clean = attention(*(t.nan_to_num(0.5) for t in tensors), is_causal=True)
    hit = torch.zeros(2, 4, 9, dtype=torch.bool)
    if where == 0:
        hit[0, 0, 5] = True
    else:
        hit[0, :2, 5:] = True
    assert out.isnan().any(-1)[hit].all()
    assert torch.equal(out[~hit], clean[~hit])


def test_gradients_do_not_see_nan_behind_the_mask(isa: str) -> None:
    q, k, v = qkv(5, 9, 9)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    mask[:, 7:] = False
    clean = with_grads([q, k, v], q, k, v, attn_mask=mask)
    with torch.no_grad():
        k[:, :, 8], v[:, :, 7] = torch.nan, torch.inf
    assert_near(clean, with_grads([q, k, v], q, k, v, attn_mask=mask))


def test_lowest_float_is_not_infinity() -> None:
    q, k, v = qkv(6, 4, 5)
    lowest = torch.full((4, 5), torch.finfo(torch.float32).min)
    # All scores vanish beside such a mask, which leaves the mean, as in torch.
    torch.testing.assert_close(
        attention(q, k, v, attn_mask=lowest),
        v.repeat_interleave(2, 1).mean(2, keepdim=True).expand(2, 4, 4, 8),
    )


@given(seed=SEEDS, stride=st.integers(2, 3))
@few
def test_strides_do_not_matter(seed: int, stride: int) -> None:
    q, k, v = (t.detach() for t in qkv(seed, 7, 9))
    (bias,) = normal(seed, (9, 7))
    expected = attention(q, k, v, attn_mask=bias.t().contiguous())
    spread = [t.repeat_interleave(stride, -1)[..., ::stride] for t in (q, k, v)]
    heads_last = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    fused = torch.cat([k, v], -1).split(8, -1)
    for inputs in (spread, heads_last, (q, *fused)):
        assert torch.equal(expected, attention(*inputs, attn_mask=bias.t()))


@pytest.mark.parametrize(
    "shape",
    [(0, 4, 2, 5, 6), (2, 0, 0, 5, 6), (2, 4, 2, 0, 6), (2, 4, 2, 5, 0)],
    ids=["batch", "heads", "q", "kv"],
)
def test_zero_sizes(isa: str, shape: tuple[int, ...]) -> None:
    batch, heads, kv_heads, q_len, kv_len = shape
    q, k, v = qkv(0, q_len, kv_len, heads, kv_heads, batch)
    (bias,) = normal(0, (q_len, kv_len))
    out, *grads = with_grads([q, k, v, bias], q, k, v, attn_mask=bias, is_causal=True)
    assert out.shape == q.shape
    assert not out.any()
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_blocks_that_a_boolean_mask_hides_change_no_bits(isa: str, dtype: torch.dtype) -> None:
    if isa == "scalar":
        pytest.skip("the reference knows no blocks")
    q, k, v = (t.detach().to(dtype) for t in qkv(7, 130, 530))
    mask = torch.ones(130, 530, dtype=torch.bool)
    mask[:, :256] = False
    with torch.no_grad():
        k[:, :, 5], v[:, :, 9] = torch.nan, torch.inf
    masked = attention(q, k, v, attn_mask=mask, return_lse=True)
    cut = attention(q, k[:, :, 256:], v[:, :, 256:], return_lse=True)
    for a, b in zip(masked, cut, strict=True):
        assert torch.equal(a, b)


def far_apart(x: Tensor) -> Tensor:
    """x with its second dimension 2^31 elements apart, in memory of which only what is touched exists."""
    stride = 2**31 + 64
    size = x.element_size() * (stride * (x.shape[1] - 1) + x[0, 0].numel())
    memory = torch.frombuffer(mmap.mmap(-1, size), dtype=x.dtype)
    return memory.as_strided(x[:1].shape, (0, stride, x.shape[-1], 1)).copy_(x[:1])


def test_offsets_past_32_bits(isa: str) -> None:
    q, k, v = (t.detach().bfloat16()[:1] for t in qkv(8, 5, 9, heads=2, kv_heads=2))
    near = [t.requires_grad_() for t in (q, k, v)]
    far = [far_apart(t.detach()).requires_grad_() for t in (q, k, v)]
    results = []
    for inputs in (near, far):
        results.append(with_grads(inputs, *inputs, is_causal=True))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
