from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops import rope
from pyllm.ops.rope import rope_reference
from tests.ops.numerics import assert_same_bits_at_any_thread_count, check_op

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (batch, heads, kv_heads, len, head_dim, rotary_dim)
SHAPES = [
    (1, 1, 1, 1, 2, 2),
    (2, 4, 2, 7, 64, 64),
    (1, 3, 1, 5, 80, 32),
    (2, 2, 2, 3, 7, 6),
    (1, 2, 1, 40, 128, 128),
]


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, positions: int | None = None, seed: int = 0
) -> list[torch.Tensor]:
    """q and k as views of (batch, len, heads * head_dim), cos and sin in float32."""
    batch, heads, kv_heads, length, head_dim, rotary_dim = shape
    g = torch.Generator().manual_seed(seed)
    q, k = (
        torch.randn(batch, length, n * head_dim, generator=g)
        .to(dtype)
        .unflatten(2, (n, head_dim))
        .transpose(1, 2)
        for n in (heads, kv_heads)
    )
    frequencies = 10000.0 ** -(torch.arange(rotary_dim // 2) / max(1, rotary_dim // 2))
    angles = torch.outer(torch.arange(length if positions is None else positions), frequencies)
    return [q.requires_grad_(), k.requires_grad_(), angles.cos(), angles.sin()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
def test_error_rule(isa: str, shape: tuple[int, ...], dtype: torch.dtype, interleaved: bool) -> None:
    q, k, cos, sin = inputs(shape, dtype, positions=100)
    ids = torch.randint(0, 100, (shape[0], shape[3]), generator=torch.Generator().manual_seed(0))
    for position_ids in (None, ids, ids[0], ids[:1].int()):
        check_op(
            lambda q, k: rope(q, k, cos, sin, position_ids=position_ids, interleaved=interleaved),  # noqa: B023
            lambda q, k: rope_reference(q, k, cos, sin, position_ids=position_ids, interleaved=interleaved),  # noqa: B023
            [q, k],
        )


def test_equals_hugging_face(isa: str) -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    q, k, cos, sin = (t.detach() for t in inputs((2, 4, 2, 9, 64, 64), torch.float32))
    expected = llama.apply_rotary_pos_emb(
        q, k, torch.cat((cos, cos), -1)[None], torch.cat((sin, sin), -1)[None]
    )
    for ours, theirs in zip(rope(q, k, cos, sin), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if isa != "scalar" else 1e-6)


def test_interleaved_equals_hugging_face(isa: str) -> None:
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    q, k, cos, sin = (t.detach() for t in inputs((2, 4, 2, 9, 64, 64), torch.float32))
    expected = gptj.apply_rotary_pos_emb(q.transpose(1, 2), sin[None], cos[None]).transpose(1, 2)
    torch.testing.assert_close(rope(q, k, cos, sin, interleaved=True)[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
def test_gradcheck(interleaved: bool) -> None:
    q, k, cos, sin = (t.detach().double() for t in inputs((2, 2, 1, 3, 7, 4), torch.float32))
    cos.requires_grad_()  # ignored: cos and sin get no gradient

    def f(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rope(q, k, cos, sin, interleaved=interleaved)

    arguments = (q.requires_grad_(), k.requires_grad_())
    assert torch.autograd.gradcheck(f, arguments)
    assert torch.autograd.gradgradcheck(f, arguments)
    f(q, k)[0].sum().backward()
    assert cos.grad is None


def test_opcheck() -> None:
    q, k, cos, sin = inputs((2, 4, 2, 5, 16, 8), torch.float32)
    ids = torch.arange(5).flip(0).repeat(2, 1)
    torch.library.opcheck(torch.ops.pyllm.rope.default, (q, k, cos, sin, None, False, False))
    torch.library.opcheck(torch.ops.pyllm.rope.default, (q, k, cos, sin, ids, True, True))


def check_compiled(backend: str) -> None:
    def f(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k = rope(q * 2, k, cos, sin, position_ids=torch.arange(q.shape[2]))
        return q.sin().sum(1) + k.sum(1)

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend=backend)
    for length in (3, 5):
        arguments = inputs((2, 4, 2, length, 16, 16), torch.float32)
        torch.testing.assert_close(compiled(*arguments), f(*arguments))
        grads = torch.autograd.grad(compiled(*arguments).sum(), arguments[:2])
        expected = torch.autograd.grad(f(*arguments).sum(), arguments[:2])
        torch.testing.assert_close(grads, expected)


def test_compiles_with_dynamic_shapes() -> None:
    check_compiled("aot_eager")


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    check_compiled("inductor")


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
def test_same_bits_at_any_thread_count(isa: str, interleaved: bool) -> None:
    q, k, cos, sin = inputs((3, 5, 2, 70, 64, 48), torch.bfloat16)

    def run() -> list[torch.Tensor]:
        outputs = rope(q, k, cos, sin, interleaved=interleaved)
        grads = torch.autograd.grad(sum(o.float().square().sum() for o in outputs), (q, k))
        return [*(o.detach() for o in outputs), *grads]

    assert_same_bits_at_any_thread_count(run)


@given(
    batch=st.integers(0, 3),
    heads=st.integers(0, 4),
    length=st.integers(0, 6),
    head_dim=st.integers(0, 40),
    pairs=st.integers(0, 20),
    interleaved=st.booleans(),
    strided=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_rotates_by_relative_position(
    batch: int,
    heads: int,
    length: int,
    head_dim: int,
    pairs: int,
    interleaved: bool,
    strided: bool,
    seed: int,
) -> None:
    """Scores of rotated q and k depend on the distance alone, norms on nothing, whatever the strides."""
    pairs = min(pairs, head_dim // 2)
    q, k, cos, sin = (
        t.detach() for t in inputs((batch, heads, 2, length, head_dim, 2 * pairs), torch.float32, 20, seed)
    )
    if strided:
        q = q.repeat_interleave(2, dim=3)[..., ::2]
    here, there = (
        rope(q, k, cos, sin, position_ids=torch.arange(length) + start, interleaved=interleaved)
        for start in (0, 9)
    )
    torch.testing.assert_close(here[0], rope(q, k, cos, sin, interleaved=interleaved)[0], rtol=0, atol=0)
    torch.testing.assert_close(here[0].norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(here[1][..., 2 * pairs :], k[..., 2 * pairs :])
    scores = [q @ k[:, :1].transpose(2, 3) for q, k in (here, there)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)


def test_nan_stays_in_its_pair(isa: str) -> None:
    q, k, cos, sin = (t.detach() for t in inputs((1, 1, 1, 2, 40, 40), torch.float32))
    q[0, 0, 1, 3] = float("nan")
    bad = rope(q, k, cos, sin)[0].isnan().nonzero().tolist()
    assert bad == [[0, 0, 1, 3], [0, 0, 1, 23]]


def test_tables_in_the_dtype_of_q() -> None:
    q, k, cos, sin = inputs((1, 2, 1, 5, 8, 8), torch.bfloat16)
    low = cos.bfloat16(), sin.bfloat16()
    assert torch.equal(rope(q, k, *low)[0], rope(q, k, low[0].float(), low[1].float())[0])


def test_autocast_keeps_the_tables() -> None:
    q, k, cos, sin = inputs((1, 2, 1, 5, 8, 8), torch.bfloat16)
    expected = rope(q, k, cos, sin)
    with torch.autocast("cpu", torch.bfloat16):
        ours = rope(q, k.float(), cos, sin)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert torch.equal(a, b)


@pytest.mark.parametrize("ids", [[0, 5], [-1, 0]])
def test_position_out_of_range(ids: list[int]) -> None:
    q, k, cos, sin = inputs((2, 2, 1, 2, 8, 8), torch.float32, positions=5)
    with pytest.raises(IndexError, match="position_ids"):
        rope(q, k, cos, sin, position_ids=torch.tensor(ids))
    with pytest.raises(RuntimeError, match="position_ids"):
        torch.ops.pyllm.rope(q, k, cos, sin, torch.tensor(ids), False, False)
    with pytest.raises(IndexError, match="positions"):
        rope(q, k, cos[:1], sin[:1])


def test_bad_input_is_named() -> None:
    q, k, cos, sin = inputs((2, 2, 1, 3, 8, 8), torch.float32)
    with pytest.raises(ValueError, match="q must"):
        rope(q[0], k, cos, sin)
    with pytest.raises(ValueError, match="k must"):
        rope(q, k[:, :, :2], cos, sin)
    with pytest.raises(ValueError, match="cos must"):
        rope(q[..., :4], k[..., :4], cos, sin)
    with pytest.raises(ValueError, match="sin must"):
        rope(q, k, cos, sin[:2])
    with pytest.raises(ValueError, match="position_ids"):
        rope(q, k, cos, sin, position_ids=torch.zeros(4, dtype=torch.long))
    with pytest.raises(TypeError, match="k must"):
        rope(q, k.half(), cos, sin)
    with pytest.raises(TypeError, match="cos must"):
        rope(q, k, cos.half(), sin)
    with pytest.raises(TypeError, match="position_ids"):
        rope(q, k, cos, sin, position_ids=torch.zeros(3))
