"""Texts without end in an engine: beyond the model's context, in constant memory, whatever the schedule."""

from __future__ import annotations

import pytest
import torch

from pyllm.generation.logits import head_logits
from pyllm.models import EndlessWindow
from tests.generation.test_engine import Network, engine_of, hashed, network_of, page_bytes, text_of
from tests.models.test_endless import paged

WINDOW, CONTEXT, NEW = EndlessWindow(4, 20), 64, 80


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_text_goes_on_beyond_the_context(family: str) -> None:
    network, prompts = network_of(family), [text_of(30, seed) for seed in range(2)]
    assert network.config.max_position_embeddings == CONTEXT
    limits = {"recent_tokens": WINDOW.recent_tokens, "sink_tokens": WINDOW.sink_tokens}
    options = {"max_new_tokens": NEW, "ignore_eos": True}
    found = engine_of(network, **limits).generate(prompts, **options)
    with torch.inference_mode():
        for prompt, completion in zip(prompts, found, strict=True):
            tokens = prompt + completion.token_ids
            assert len(completion.token_ids) == NEW
            hidden = paged(network, torch.tensor(tokens[:-1]), WINDOW, 64)[len(prompt) - 1 :]
            logits = head_logits(hidden, network.lm_head_weight, network.logit_softcap)
            assert logits.argmax(-1).tolist() == completion.token_ids

    engine = engine_of(
        network, page_size=16, max_batch_tokens=9, kv_cache_bytes=7 * page_bytes(network), **limits
    )
    requests = [engine.submit(prompt, **options) for prompt in prompts]
    held = []
    while engine.step():
        held.append(engine.statistics.pages_in_use)
    groups = {network.config.window(layer) for layer in range(network.config.num_hidden_layers)}
    assert max(held) <= 6 * len(groups)
    assert [request.completion for request in requests] == found


def test_texts_that_begin_alike_share_sinks_and_recent_pages() -> None:
    network, prompt = network_of("llama"), text_of(60)
    engine = engine_of(network, page_size=16, recent_tokens=20)
    first = engine.generate([prompt], max_new_tokens=5)
    assert engine.generate([prompt], max_new_tokens=5) == first
    assert engine.statistics.reused_tokens == 48
    assert engine.generate([text_of(100)], max_new_tokens=3)[0].finish_reason in ("stop", "length")


def test_what_does_not_fit_is_refused() -> None:
    for limits, message in [
        ({"recent_tokens": 0}, "recent_tokens must be an integer of at least 1"),
        ({"recent_tokens": 10, "sink_tokens": -1}, "sink_tokens must be an integer of at least 0"),
        ({"recent_tokens": 61}, "at most the context"),
    ]:
        with pytest.raises(ValueError, match=message):
            engine_of(network_of("llama"), **limits)
    with pytest.raises(ValueError, match="recent_tokens must be None"):
        engine_of(Network(hashed), recent_tokens=5)
