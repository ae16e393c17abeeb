from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import GenerationConfig
from pyllm.generation import generate, stream
from tests.generation.stand_in import EOS, VOCAB, ByteTokenizer, Network, hashed, saying

PROMPT = list(b"say:")


def complete(logits_of, prompts=(PROMPT,), context=512, tokenizer=None, **options):
    return generate(
        Network(logits_of, context),
        prompts,
        GenerationConfig(**options),
        eos_token_ids={EOS},
        tokenizer=tokenizer or ByteTokenizer(),
    )


def shown(logits_of, **options):
    pieces = stream(
        Network(logits_of),
        PROMPT,
        GenerationConfig(**options),
        eos_token_ids={EOS},
        tokenizer=ByteTokenizer(),
    )
    return list(pieces), pieces.completion


def test_ends_at_the_end_of_sequence_token():
    (done,) = complete(saying(b"hello"))
    assert (done.text, done.finish_reason) == ("hello", "stop")
    assert done.token_ids == [*b"hello", EOS]
    assert len(done.logprobs) == 6
    assert done.prompt_token_ids == PROMPT


def test_ends_at_the_token_limit():
    (done,) = complete(saying(b"hello"), max_new_tokens=3)
    assert (done.text, done.finish_reason, done.token_ids) == ("hel", "length", [*b"hel"])


def test_ends_where_the_context_ends():
    (done,) = complete(saying(b"abcdefgh"), context=len(PROMPT) + 5)
    assert (done.text, done.finish_reason) == ("abcde", "length")


def test_ignore_eos():
    (done,) = complete(saying(b"hi"), ignore_eos=True, max_new_tokens=4)
    assert (done.token_ids, done.finish_reason) == ([*b"hi", EOS, EOS], "length")


def test_min_new_tokens_holds_off_the_end():
    def logits_of(history):
        logits = torch.zeros(VOCAB)
        logits[EOS], logits[ord("x")] = 2.0, 1.0
        return logits

    (done,) = complete(logits_of, min_new_tokens=5)
    assert done.token_ids == [*b"xxxxx", EOS]
    (done,) = complete(saying(b"ababab"), min_new_tokens=3, stop="ab")
    assert (done.text, done.finish_reason) == ("abab"[:4], "stop")


def test_logprobs_are_the_models_own():
    options = {
        "temperature": 0.5,
        "top_k": 3,
        "repetition_penalty": 1.5,
        "seed": 3,
        "logprobs": 4,
        "max_new_tokens": 9,
    }
    (done,) = complete(hashed, **options)
    history = list(PROMPT)
    for token, logprob, top in zip(done.token_ids, done.logprobs, done.top_logprobs, strict=True):
        reference = torch.log_softmax(hashed(history), -1)
        assert logprob == pytest.approx(float(reference[token]), abs=1e-5)
        values, tokens = reference.topk(4)
        assert list(top) == tokens.tolist()
        assert list(top.values()) == pytest.approx(values.tolist(), abs=1e-5)
        history.append(token)
    assert complete(hashed, max_new_tokens=1)[0].top_logprobs is None


prompts = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=9), min_size=1, max_size=6)


@settings(max_examples=12, deadline=None)
@given(prompts=prompts, temperature=st.sampled_from([0.0, 0.8]), penalty=st.sampled_from([1.0, 1.2]))
def test_neighbours_do_not_matter(prompts, temperature, penalty):
    options = {
        "temperature": temperature,
        "seed": 11,
        "max_new_tokens": 12,
        "repetition_penalty": penalty,
        "frequency_penalty": 0.3,
        "no_repeat_ngram_size": 2,
        "logit_bias": {EOS: 3.0},
    }
    together = complete(hashed, prompts, **options)
    alone = [complete(hashed, [prompt], **options)[0] for prompt in prompts]
    assert together == alone


def test_many_prompts_keep_their_order():
    prompts = [[*b"x" * (index * 7 % 40), ord(":")] for index in range(67)]
    done = complete(saying(b"ok"), prompts)
    assert [completion.prompt_token_ids for completion in done] == prompts
    assert {completion.text for completion in done} == {"ok"}


def test_return_sequences_differ_and_the_first_is_the_single_one():
    options = {"temperature": 1.0, "seed": 5, "max_new_tokens": 10}
    several = complete(hashed, [PROMPT, [7]], num_return_sequences=4, **options)
    assert len({tuple(done.token_ids) for done in several}) == 8
    assert [done.prompt_token_ids for done in several] == [PROMPT] * 4 + [[7]] * 4
    assert several[4] == complete(hashed, [[7]], **options)[0]


def test_seeds():
    def drawn(**options):
        return complete(hashed, temperature=1.0, max_new_tokens=10, **options)[0].token_ids

    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    torch.manual_seed(3)
    first = drawn()
    assert drawn() != first
    torch.manual_seed(3)
    assert drawn() == first


def test_draws_follow_the_distribution():
    logits = torch.full((VOCAB,), -1e9)
    logits[:6] = torch.tensor([1.0, 0.5, 0.0, -0.5, -1.0, -1.5])
    temperature, steps = 0.7, 2000
    (done,) = complete(
        lambda history: logits, context=8192, temperature=temperature, seed=9, max_new_tokens=steps
    )
    expected = torch.softmax(logits[:6] / temperature, -1) * steps
    counts = Counter(done.token_ids)
    chi_square = sum((counts[token] - float(e)) ** 2 / float(e) for token, e in enumerate(expected))
    assert set(counts) <= set(range(6))
    assert chi_square < 20.5  # 5 degrees of freedom: exceeded by chance once in a thousand


def test_stream_shows_whole_characters_only():
    text = "aé漢🙂e\u0301z"
    pieces, completion = shown(saying(text.encode()))
    assert pieces == list(text)
    assert completion.text == text


def test_a_cut_character_is_replaced_at_the_end():
    pieces, completion = shown(saying("a🙂".encode()), max_new_tokens=3)
    assert pieces == ["a", "\ufffd"]
    assert (completion.text, completion.finish_reason) == ("a\ufffd", "length")


def test_stream_holds_back_what_may_become_a_stop_string():
    pieces, completion = shown(saying(b"one END of ENDING two"), stop=["ENDING"])
    assert "".join(pieces) == completion.text == "one END of "
    assert completion.finish_reason == "stop"
    assert not any(piece.endswith(("E", "EN")) for piece in pieces)
    assert "END of" not in pieces
    assert completion.token_ids == [*b"one END of ENDING"]


def test_a_held_back_end_is_shown_when_the_text_ends():
    pieces, completion = shown(saying(b"abc EN"), stop=["END"])
    assert "".join(pieces) == completion.text == "abc EN"
    assert completion.finish_reason == "stop"


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(st.sampled_from("ab é🙂"), max_size=20),
    stop=st.lists(st.text(st.sampled_from("ab é🙂"), min_size=1, max_size=3), max_size=3),
)
def test_streamed_pieces_joined_are_the_generated_text(text, stop):
    pieces, completion = shown(saying(text.encode()), stop=stop)
    (done,) = complete(saying(text.encode()), stop=stop)
    assert "".join(pieces) == completion.text == done.text
    assert done == completion
    assert all(pieces)
    assert "\ufffd" not in done.text


def test_generation_leaves_grad_mode_alone_between_steps():
    pieces = stream(Network(saying(b"abc")), PROMPT, GenerationConfig(), tokenizer=ByteTokenizer())
    next(pieces)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[]], {}, "prompt 0 is empty"),
        ([[1], [VOCAB]], {}, f"prompt 1 has a token outside .*{VOCAB}"),
        ([[-1]], {}, "prompt 0 .*-1"),
        ([[1], [1] * 16], {}, "prompt 1 has 16 tokens .* context of 16"),
        ([[1]], {"logit_bias": {VOCAB: 1.0}}, f"logit_bias: token {VOCAB}"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(prompts, options, message):
    network = Network(hashed, context=16)
    with pytest.raises(ValueError, match=message):
        generate(network, prompts, GenerationConfig(**options))
    assert network.batch_sizes == []


def test_what_needs_a_tokenizer_says_so():
    network = Network(hashed)
    with pytest.raises(ValueError, match="stop needs a tokenizer"):
        generate(network, [[1]], GenerationConfig(stop="x"))
    with pytest.raises(ValueError, match="no tokenizer"):
        stream(network, [1], GenerationConfig(), tokenizer=None)
    config = GenerationConfig(num_return_sequences=2, temperature=1.0)
    with pytest.raises(ValueError, match="num_return_sequences"):
        stream(network, [1], config, tokenizer=ByteTokenizer())
    (done,) = generate(network, [[1]], GenerationConfig(max_new_tokens=3))
    assert (done.text, len(done.token_ids)) == ("", 3)


def test_logits_that_are_not_numbers_are_an_error():
    with pytest.raises(ValueError, match="NaN"):
        complete(lambda history: torch.full((VOCAB,), torch.nan))
