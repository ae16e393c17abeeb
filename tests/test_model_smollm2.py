"""Generation from a real checkpoint against transformers, both in float32."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pyllm import Engine, GenerationConfig, Model
from pyllm.generation import Completion

NEW_TOKENS = 64
PARIS = [{"role": "user", "content": "What is the capital of France?"}]
PROMPTS: list = [
    PARIS,
    "Once upon a time",
    "def fibonacci(n):\n",
    "The three states of matter are",
    "Le chat est assis sur",
    "1, 2, 3, 4,",
    "Dear Sir or Madam,\n\nI am writing to you because",
    "Water boils at a temperature of",
    [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Name three colours."}],
    "人工知能とは、🙂",
]


@pytest.fixture(scope="module")
def theirs(smollm2_model: Model) -> LlamaForCausalLM:
    ours = smollm2_model.config
    config = LlamaConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=ours.num_hidden_layers,
        num_attention_heads=ours.num_attention_heads,
        num_key_value_heads=ours.num_key_value_heads,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.load_state_dict(smollm2_model.network.state_dict(), strict=False, assign=True)
    model.tie_weights()
    return model.eval()


@pytest.fixture(scope="module")
def greedy(smollm2_model: Model) -> list[Completion]:
    """All prompts together, of 4 to 40 tokens."""
    return smollm2_model.generate(PROMPTS, GenerationConfig(max_new_tokens=NEW_TOKENS))


def test_the_capital_of_france(smollm2_model: Model, greedy: list[Completion]):
    assert greedy[0].text == "The capital of France is Paris."
    assert greedy[0].finish_reason == "stop"
    stream = smollm2_model.stream(PARIS, GenerationConfig(stop=" Paris"))
    assert "".join(stream) == "The capital of France is"
    assert stream.completion.finish_reason == "stop"


def test_every_token_is_the_one_transformers_would_choose(greedy: list[Completion], theirs: LlamaForCausalLM):
    """Given what went before, token by token: the same as its greedy search, in one pass over all prompts."""
    rows = [done.prompt_token_ids + done.token_ids for done in greedy]
    padded = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row)
    with torch.inference_mode():
        log_probs = theirs(padded).logits.log_softmax(-1)
    for place, done in enumerate(greedy):
        start = len(done.prompt_token_ids) - 1
        own = log_probs[place, start : start + len(done.token_ids)]
        assert own.argmax(-1).tolist() == done.token_ids
        assert own.amax(-1).tolist() == pytest.approx(done.logprobs, abs=1e-3)
        assert len(done.token_ids) == NEW_TOKENS or done.token_ids[-1] == 2


@pytest.mark.parametrize(
    "place", [0, *(pytest.param(place, marks=pytest.mark.slow) for place in range(1, len(PROMPTS)))]
)
def test_greedy_search_of_transformers(greedy: list[Completion], theirs: LlamaForCausalLM, place: int):
    ids = torch.tensor([greedy[place].prompt_token_ids])
    wanted = theirs.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1] :]
    assert greedy[place].token_ids == wanted.tolist()


def test_a_batch_gives_what_each_prompt_gives_alone(smollm2_model: Model, greedy: list[Completion]):
    for place in (4, 6):
        (alone,) = smollm2_model.generate([PROMPTS[place]], GenerationConfig(max_new_tokens=8))
        assert alone.token_ids == greedy[place].token_ids[:8]
        assert alone.logprobs == pytest.approx(greedy[place].logprobs[:8], abs=1e-4)


def test_log_probs_belong_to_what_was_generated(smollm2_model: Model, greedy: list[Completion]):
    done = greedy[1]
    whole = smollm2_model.log_probs(done.prompt_token_ids + done.token_ids)
    assert whole[-len(done.token_ids) :].tolist() == pytest.approx(done.logprobs, abs=1e-4)


def test_a_seeded_prompt_gives_the_same_text_in_any_company(smollm2_model: Model):
    config = GenerationConfig(max_new_tokens=8, temperature=0.9, top_p=0.95, seed=17)
    together = smollm2_model.generate(PROMPTS[2:5], config)
    (alone,) = smollm2_model.generate(PROMPTS[3], config)
    assert alone.token_ids == together[1].token_ids
    assert (
        alone.token_ids != smollm2_model.generate(PROMPTS[3], GenerationConfig(max_new_tokens=8))[0].token_ids
    )


@pytest.mark.slow
def test_completions_are_the_same_bits_in_a_busy_engine(
    smollm2_model: Model, greedy: list[Completion]
) -> None:
    engine = Engine(smollm2_model, max_batch_tokens=7, max_batch_size=4, page_size=16, kv_cache_bytes=8 << 20)
    config = GenerationConfig(max_new_tokens=NEW_TOKENS)
    requests = [engine.submit(prompt, config) for prompt in PROMPTS for _ in range(2)]
    engine.step()
    for request in requests[1::2]:
        engine.step()
        request.cancel()
    assert [request.result() for request in requests[::2]] == greedy
    assert engine.statistics.preemptions > 0


# Options of ours, and of transformers' generate where they have other names or values. transformers also finds a stop
# string that begins in the prompt; none does here.
DETERMINISTIC: dict[str, tuple[dict, dict]] = {
    "greedy": ({}, {}),
    "repetition penalty": ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
    "no repeated n-grams": ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
    "logit bias": (
        {"logit_bias": {28: 4.0, 260: -100.0, 253: -3.5}},
        {"sequence_bias": {(28,): 4.0, (260,): -100.0, (253,): -3.5}},
    ),
    "a least length": ({"min_new_tokens": 20}, {"min_new_tokens": 20}),
    "stop strings": ({"stop": ["is", "\n", "he l"]}, {"stop_strings": ["is", "\n", "he l"]}),
    "all edits": (
        {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "min_new_tokens": 12, "logit_bias": {28: 2.0}},
        {
            "repetition_penalty": 1.1,
            "no_repeat_ngram_size": 3,
            "min_new_tokens": 12,
            "sequence_bias": {(28,): 2.0},
        },
    ),
    "beams": ({"num_beams": 4}, {"num_beams": 4}),
    "beams, short ones first": (
        {"num_beams": 3, "length_penalty": -1.0, "early_stopping": True},
        {"num_beams": 3, "length_penalty": -1.0, "early_stopping": True},
    ),
    "beams, long ones first": (
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
    ),
    "several beams, edited": (
        {"num_beams": 3, "num_return_sequences": 3, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
        {"num_beams": 3, "num_return_sequences": 3, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
    ),
}


@pytest.fixture(scope="module")
def their_tokenizer(
    smollm2_model: Model, tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerFast:
    """transformers looks for stop strings with it."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    smollm2_model.tokenizer.save(path)
    return PreTrainedTokenizerFast(tokenizer_file=str(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_text_is_transformers_text(
    name: str,
    smollm2_model: Model,
    theirs: LlamaForCausalLM,
    their_tokenizer: PreTrainedTokenizerFast,
    greedy: list[Completion],
) -> None:
    ours, options = DETERMINISTIC[name]
    if "stop_strings" in options:
        options = options | {"tokenizer": their_tokenizer}
    prompts = [greedy[place].prompt_token_ids for place in (0, 1, 8)]
    copies = ours.get("num_return_sequences", 1)
    found = smollm2_model.generate(prompts, GenerationConfig(max_new_tokens=24, **ours))
    for place, prompt in enumerate(prompts):
        with torch.inference_mode():
            rows = theirs.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, **options)
        assert len(rows) == copies
        for row, completion in zip(rows.tolist(), found[place * copies :], strict=False):
            length = len(prompt) + len(completion.token_ids)
            assert prompt + completion.token_ids == row[:length]
            assert set(row[length:]) <= {2}, "transformers went on"
