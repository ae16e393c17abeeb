"""The key-value cache: growth, truncation, selection of rows, wrong use."""

from __future__ import annotations

import pytest
import torch

from pyllm.models import KVCache, Transformer, preset
from tests.models.hf import ids

CONFIG = preset("tiny", vocab_size=97)


@pytest.fixture(scope="module")
def network() -> Transformer:
    torch.manual_seed(0)
    return Transformer(CONFIG).eval()


@torch.inference_mode()
def test_growth_keeps_what_is_stored(network: Transformer) -> None:
    x = ids(2, 300)
    small, large = network.new_cache(2, capacity=1), network.new_cache(2, capacity=512)
    for chunk in x.split([1, 100, 199], dim=1):
        assert torch.equal(network(chunk, kv_cache=small), network(chunk, kv_cache=large))
    assert small.capacity % 256 == 0
    assert 300 <= small.capacity <= 1024
    assert (small.batch_size, small.longest) == (2, 300)


@torch.inference_mode()
def test_truncate_forgets(network: Transformer) -> None:
    x, cache = ids(2, 20), network.new_cache(2)
    network(x, kv_cache=cache)
    cache.truncate(torch.tensor([4, 9]))
    again = network(x[:, :1], kv_cache=cache)
    fresh = network.new_cache(2)
    network(x[:, :9], kv_cache=fresh, input_lengths=torch.tensor([4, 9]))
    assert torch.equal(again, network(x[:, :1], kv_cache=fresh))
    for lengths in ([6, 9], [-1, 0], [1]):
        with pytest.raises(ValueError, match="lengths must lie in"):
            cache.truncate(torch.tensor(lengths))


@torch.inference_mode()
def test_select_copies_rows(network: Transformer) -> None:
    x, cache = ids(3, 10), network.new_cache(3)
    lengths = torch.tensor([10, 4, 7])
    network(x, kv_cache=cache, input_lengths=lengths)
    with pytest.raises(ValueError, match="rows must be a vector"):
        cache.select(torch.tensor([], dtype=torch.int64))
    cache.select(torch.tensor([1, 1, 2, 1]))
    assert cache.lengths.tolist() == [4, 4, 7, 4]
    assert cache.longest == 7
    new = ids(4, 1, seed=5)
    logits = network(new, kv_cache=cache)
    for row, source in enumerate([1, 1, 2, 1]):
        alone = network.new_cache(1)
        network(x[source : source + 1, : lengths[source]], kv_cache=alone)
        expected = network(new[row : row + 1], kv_cache=alone)
        torch.testing.assert_close(logits[row : row + 1], expected, atol=1e-5, rtol=1e-5)


def test_an_interrupted_step_leaves_no_trace(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    x, cache = ids(1, 8), network.new_cache(1)
    with torch.inference_mode():
        network(x, kv_cache=cache)
        expected = network(x, kv_cache=_copy(cache))

        def fail(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(network.model.layers[2], "forward", fail)
            with pytest.raises(KeyboardInterrupt):
                network(x, kv_cache=cache)
        assert cache.lengths.tolist() == [8]
        assert torch.equal(network(x, kv_cache=cache), expected)


def _copy(cache: KVCache) -> KVCache:
    copy = KVCache(CONFIG, cache.batch_size)
    copy.keys = [keys.clone() for keys in cache.keys]
    copy.values = [values.clone() for values in cache.values]
    copy.lengths = cache.lengths.clone()
    copy.truncate(cache.lengths)
    return copy


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_impossible_sizes(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="batch_size and capacity must be positive"):
        KVCache(CONFIG, sizes[0], capacity=sizes[1])
