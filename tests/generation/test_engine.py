"""The engine: a request's tokens and log-probabilities, to the bit, under random schedules; its memory; its callers."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import random
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyllm import GenerationConfig, ops
from pyllm.generation import Completion, Engine, Request, sequence_log_probs
from pyllm.generation.logits import LogitsEditor, head_logits, typical
from pyllm.models import Transformer, preset
from tests.generation import stand_in
from tests.generation.stand_in import ByteTokenizer, Network, hashed, saying
from tests.models.test_transformer import ours

VOCABULARY, EOS = 97, 2
FAMILIES = [
    "llama",
    "mistral-window",
    "gemma2",
    "gemma3",
    "gpt2",
    "cohere-multi-query",
    "qwen2_moe",
    "mixtral",
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9, "seed": 4},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "seed": 5},
    {"temperature": 0.8, "typical_p": 0.7, "min_p": 0.01, "seed": 6},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "logit_bias": {7: 1.5, EOS: -2.0}},
    {"frequency_penalty": 0.4, "presence_penalty": 0.2, "min_new_tokens": 3, "logprobs": 3},
]


@functools.cache
def network_of(family: str) -> Transformer:
    if family == "prefix":
        torch.manual_seed(0)
        config = dataclasses.replace(
            preset("tiny", vocab_size=VOCABULARY), prefix_decoder=True, max_position_embeddings=64
        )
        return Transformer(config).eval()
    return ours(family)


def engine_of(network: Any, tokenizer: Any = None, **limits: Any) -> Engine:
    model = SimpleNamespace(network=network, tokenizer=tokenizer, eos_token_ids=(EOS, stand_in.EOS))
    return Engine(model, **limits)


@torch.inference_mode()
def by_hand(
    network: Transformer, prompt: list[int], config: GenerationConfig
) -> tuple[list[int], list[float]]:
    """The same completion without cache and engine: everything anew for every token."""
    editor = LogitsEditor(config, [prompt], VOCABULARY, {EOS}, network.device)
    tokens, chosen = list(prompt), list[int]()
    prefix = {"prefix_lengths": torch.tensor([len(prompt)])} if network.config.prefix_decoder else {}
    for position in range(min(config.max_new_tokens, network.config.max_position_embeddings - len(prompt))):
        hidden = network.hidden_states(torch.tensor([tokens]), last_token_only=True, **prefix)
        logits = editor.edit(head_logits(hidden, network.lm_head_weight, network.logit_softcap))
        if config.typical_p < 1:
            logits = typical(logits / config.temperature, config.typical_p) * config.temperature
        token = ops.sample(
            logits,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            seed=config.seed or 0,
            position=position,
        )
        editor.append(token)
        chosen.append(int(token))
        tokens.append(int(token))
        if int(token) == EOS:
            break
    if prefix:
        return chosen, []
    return chosen, sequence_log_probs(network, torch.tensor(tokens), first=len(prompt)).tolist()


def page_bytes(network: Transformer, quantization: str | None = None) -> int:
    """Memory of 16 tokens in all layers."""
    config = network.config
    cache = ops.PagedKVCache.empty(
        1,
        config.num_key_value_heads,
        config.head_dim,
        page_size=16,
        dtype=network.dtype,
        quantization=quantization,
    )
    return cache.data.nbytes * config.num_hidden_layers


def draw_requests(chance: random.Random, count: int) -> list[tuple[list[int], GenerationConfig]]:
    """Prompts, some of which begin alike, with options of all kinds."""
    beginnings = [[chance.randrange(3, VOCABULARY) for _ in range(33)] for _ in range(2)]
    requests = []
    for _ in range(count):
        prompt = chance.choice(beginnings)[: chance.randint(0, 33)]
        prompt = prompt + [chance.randrange(3, VOCABULARY) for _ in range(chance.randint(1, 12))]
        config = GenerationConfig(max_new_tokens=chance.randint(3, 30), **chance.choice(OPTIONS))
        requests.append((prompt, config))
    return requests


def run(
    engine: Engine, wanted: list[tuple[list[int], GenerationConfig]], chance: random.Random
) -> list[Completion]:
    """Submits at random steps, with neighbours that are cancelled at random steps."""
    requests: list[Request] = []
    doomed: list[Request] = []
    while len(requests) < len(wanted) or not all(request.finished for request in requests):
        if len(requests) < len(wanted) and chance.random() < 0.5:
            prompt, config = wanted[len(requests)]
            requests.append(engine.submit(prompt, config))
        if chance.random() < 0.08:
            doomed.append(engine.submit(draw_requests(chance, 1)[0][0], max_new_tokens=15))
        if doomed and chance.random() < 0.15:
            doomed.pop().cancel()
        engine.step()
    for request in doomed:
        request.cancel()
    return [request.completion for request in requests]


# Tokens of a step, pages, page size: the first two are short of memory.
SHAPES = [(11, 7, 16), (5, 6, 16), (23, 40, 64), (512, 12, 32)]


def check_under_random_schedules(family: str, seed: int, shapes: list[tuple[int, int, int]]) -> None:
    network, chance = network_of(family), random.Random(f"{family} {seed}")
    wanted = draw_requests(chance, 5)
    expected = [by_hand(network, prompt, config) for prompt, config in wanted]
    for max_batch_tokens, pages, page_size in shapes:
        engine = engine_of(
            network,
            max_batch_tokens=max_batch_tokens,
            max_batch_size=chance.choice([2, 3, 8]),
            kv_cache_bytes=pages * page_size // 16 * page_bytes(network),
            page_size=page_size,
        )
        for (tokens, logprobs), found in zip(expected, run(engine, wanted, chance), strict=True):
            assert found.token_ids == tokens
            if family != "prefix":
                assert found.logprobs == logprobs
        assert engine.statistics.pages_in_use == engine.statistics.running == engine.statistics.waiting == 0


@pytest.mark.parametrize("family", ["llama", "gemma3", "prefix"])
def test_a_completion_depends_on_its_own_request_only(family: str) -> None:
    check_under_random_schedules(family, 0, SHAPES[:1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_completion_depends_on_its_own_request_only_in_every_family(family: str, seed: int) -> None:
    check_under_random_schedules(family, seed, SHAPES)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_pages_depend_on_their_own_request_only(quantization: str) -> None:
    network, chance = network_of("gemma3"), random.Random(quantization)
    wanted = draw_requests(chance, 5)

    def engine(**limits: Any) -> Engine:
        return engine_of(network, kv_quantization=quantization, **limits)

    alone = [engine().generate([prompt], config)[0] for prompt, config in wanted]
    memory = 7 * page_bytes(network, quantization)
    short = engine(max_batch_tokens=11, max_batch_size=3, kv_cache_bytes=memory, page_size=16)
    assert run(short, wanted, chance) == alone
    exact = engine_of(network).generate([wanted[0][0]], GenerationConfig(max_new_tokens=1, logprobs=1))[0]
    ours = engine().generate([wanted[0][0]], GenerationConfig(max_new_tokens=1, logprobs=1))[0]
    assert ours.logprobs != exact.logprobs
    assert ours.logprobs[0] == pytest.approx(exact.logprobs[0], abs=0.03 if quantization == "int8" else 0.3)


def test_quantized_pages_hold_more() -> None:
    def pages(quantization: str | None) -> int:
        engine = engine_of(network_of("llama"), kv_cache_bytes=1 << 18, kv_quantization=quantization)
        return engine.statistics.pages

    assert pages("int8") > 2 * pages(None)
    assert pages("int4") > pages("int8")


def same(found: Completion, network: Transformer, prompt: list[int], config: GenerationConfig) -> bool:
    return (found.token_ids, found.logprobs) == by_hand(network, prompt, config)


def text_of(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(3, VOCABULARY) for _ in range(length)]


ENDLESS = GenerationConfig(max_new_tokens=20, ignore_eos=True)


def test_a_request_that_lacks_pages_starts_over_and_ends_the_same() -> None:
    network = network_of("llama")
    engine = engine_of(network, page_size=16, kv_cache_bytes=6 * page_bytes(network))
    prompts = [text_of(30, seed) for seed in range(3)]
    requests = [engine.submit(prompt, ENDLESS) for prompt in prompts]
    done = [request.result() for request in requests]
    assert engine.statistics.preemptions > 0
    alone = [engine_of(network).generate([prompt], ENDLESS)[0] for prompt in prompts]
    assert done == alone


def test_texts_that_begin_alike_share_pages() -> None:
    network, beginning = network_of("llama"), text_of(40)
    engine = engine_of(network, page_size=16)
    config = GenerationConfig(max_new_tokens=5)
    prompts = [[*beginning, 5], [*beginning, 6, 7], [*beginning[:20], 8], text_of(40, 1)]
    engine.generate([prompts[0]], config)
    assert engine.statistics.reused_tokens == 0
    for prompt, reused in zip(prompts, (32, 32, 16, 0), strict=True):
        before = engine.statistics.reused_tokens
        (found,) = engine.generate([prompt], config)
        assert engine.statistics.reused_tokens - before == reused
        assert same(found, network, prompt, config)


def test_samples_of_one_prompt_compute_it_once() -> None:
    engine, prompt = engine_of(network_of("llama"), page_size=16), text_of(40)
    engine.generate([prompt], max_new_tokens=3, temperature=1.0, seed=0, num_return_sequences=4)
    assert engine.statistics.reused_tokens == 3 * 32


def test_a_conversation_goes_on_from_its_stored_answer() -> None:
    network = network_of("llama")
    engine = engine_of(network, page_size=16)
    (first,) = engine.generate([text_of(20)], ENDLESS)
    (second,) = engine.generate([[*text_of(20), *first.token_ids, 9]], max_new_tokens=4)
    assert engine.statistics.reused_tokens == 32
    assert same(second, network, [*text_of(20), *first.token_ids, 9], GenerationConfig(max_new_tokens=4))


def test_other_weights_share_nothing() -> None:
    torch.manual_seed(0)
    network = Transformer(preset("tiny", vocab_size=VOCABULARY)).eval()
    engine, prompt, config = engine_of(network, page_size=16), text_of(40), GenerationConfig(max_new_tokens=4)
    engine.generate([prompt], config)
    with torch.no_grad():
        network.model.layers[0].self_attn.v_proj.weight.mul_(-1.5)
    (found,) = engine.generate([prompt], config)
    assert engine.statistics.reused_tokens == 0
    assert same(found, network, prompt, config)


def test_layers_with_a_window_give_pages_back() -> None:
    # Every second layer sees 5 tokens; 60 tokens fill 4 pages where everything is seen, 2 where the window is.
    network, held = network_of("gemma3"), list[int]()
    engine = engine_of(network, page_size=16, max_batch_tokens=4)
    request = engine.submit(text_of(30), max_new_tokens=30, ignore_eos=True)
    while not request.finished:
        held.append(engine.statistics.pages_in_use)
        engine.step()
    assert max(held) == 4 + 1 + 1
    config = network.config
    assert {config.window(layer) for layer in range(config.num_hidden_layers)} == {5, None}


def test_windows_make_room_for_more_tokens() -> None:
    windowed, full = network_of("mistral-window"), network_of("llama")
    assert page_bytes(windowed) == page_bytes(full)
    limits = {
        "page_size": 16,
        "kv_cache_bytes": 5 * page_bytes(full),
        "max_batch_size": 1,
        "max_batch_tokens": 16,
    }
    with pytest.raises(ValueError, match=r"kv_cache_bytes has room for 48 tokens.* come to 60"):
        engine_of(full, **limits | {"kv_cache_bytes": 4 * page_bytes(full)}).submit(text_of(40), ENDLESS)
    assert len(engine_of(windowed, **limits).submit(text_of(40), ENDLESS).result().token_ids) == 20


def test_a_cancelled_request_gives_its_pages_back_at_once() -> None:
    network = network_of("llama")
    engine = engine_of(network, page_size=16)
    staying, leaving, waiting = (engine.submit(text_of(30, seed), ENDLESS) for seed in range(3))
    for _ in range(5):
        engine.step()
    before = engine.statistics.pages_in_use
    leaving.cancel()
    waiting.cancel()
    assert engine.statistics.pages_in_use < before
    assert engine.statistics.running == 1
    assert leaving.completion.finish_reason == leaving.result().finish_reason == "cancelled"
    assert len(leaving.completion.logprobs) == len(leaving.completion.token_ids) == 5
    assert same(staying.result(), network, text_of(30, 0), ENDLESS)
    staying.cancel()
    assert staying.completion.finish_reason == "length"
    assert engine.statistics.pages_in_use == 0


def test_an_interrupted_step_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("llama")
    engine = engine_of(network, page_size=16)
    request = engine.submit(text_of(30), ENDLESS)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for place in (network.model.layers[1], engine._chooser):
        engine.step()
        with monkeypatch.context() as patch:
            patch.setattr(place, "forward" if isinstance(place, torch.nn.Module) else "choose", interrupt)
            with pytest.raises(KeyboardInterrupt):
                engine.step()
    assert same(request.result(), network, text_of(30), ENDLESS)


def test_finished_requests_make_room_for_waiting_ones() -> None:
    engine = engine_of(network_of("llama"), max_batch_size=2)
    requests = [engine.submit(text_of(3, n), ENDLESS, max_new_tokens=1 + n) for n in range(5)]
    most = 0
    while engine.step():
        most = max(most, engine.statistics.running)
    assert most == 2
    assert [len(request.completion.token_ids) for request in requests] == [1, 2, 3, 4, 5]


def test_logits_that_are_not_numbers_end_one_request_only() -> None:
    def logits_of(history: list[int]) -> torch.Tensor:
        return torch.full((258,), torch.nan) if history[0] == 1 else hashed(history)

    engine = engine_of(Network(logits_of))
    bad, good = engine.submit([1, 5], max_new_tokens=4), engine.submit([2, 5], max_new_tokens=4)
    assert len(good.result().token_ids) == 4
    with pytest.raises(ValueError, match="NaN"):
        bad.result()
    assert engine.statistics.running == 0


def test_threads_share_an_engine() -> None:
    network = network_of("llama")
    engine, texts = engine_of(network), [text_of(5 + n, n) for n in range(6)]
    found: dict[int, Completion] = {}

    def ask(number: int) -> None:
        found[number] = engine.submit(texts[number], ENDLESS).result()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[number], network, text, ENDLESS) for number, text in enumerate(texts))


def test_asyncio() -> None:
    engine = engine_of(Network(saying("añb🙂c".encode())), ByteTokenizer())

    async def pieces(prompt: str) -> list[str]:
        return [piece async for piece in engine.submit(prompt)]

    async def cancelled() -> Request:
        request = engine.submit("say:", logit_bias={EOS: -100.0}, ignore_eos=True)
        task = asyncio.create_task(request.wait())
        while len(request.completion.token_ids) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return request

    async def everything() -> tuple[list[list[str]], Completion, Request]:
        texts = await asyncio.gather(pieces("say:"), pieces("again:"))
        return texts, await engine.submit("say:").wait(), await cancelled()

    texts, whole, request = asyncio.run(everything())
    assert texts == [list("añb🙂c")] * 2
    assert whole.text == "añb🙂c"
    for _ in range(100):
        if request.finished:
            break
        threading.Event().wait(0.01)
    assert request.completion.finish_reason == "cancelled"
    assert engine.statistics.running == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_batch_tokens": 0}, "max_batch_tokens must be a positive integer"),
        ({"max_batch_size": True}, "max_batch_size must be a positive integer"),
        ({"kv_cache_bytes": 1.5}, "kv_cache_bytes must be a positive integer"),
        ({"kv_cache_bytes": 100}, "kv_cache_bytes must be at least"),
        ({"page_size": 48}, "page_size"),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine_of(network_of("llama"), **limits)


def test_requests_that_make_no_sense() -> None:
    engine = engine_of(network_of("llama"))
    for prompt, options, message in [
        ([], {}, "prompt 0 is empty"),
        ([VOCABULARY], {}, "outside"),
        ([1], {"num_beams": 2}, "num_beams must be 1"),
        ([1], {"num_return_sequences": 2, "temperature": 1.0}, "num_return_sequences must be 1"),
        ([1], {"stop": "x"}, "stop needs a tokenizer"),
    ]:
        with pytest.raises(ValueError, match=message):
            engine.submit(prompt, **options)
    with pytest.raises(ValueError, match="num_beams must be 1"):
        engine.generate([[1]], num_beams=2)
    assert not engine.step()
