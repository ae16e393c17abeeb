"""Generation from a real checkpoint against transformers, both in float32."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pyllm import GenerationConfig, Model
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
