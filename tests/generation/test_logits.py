from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import GenerationConfig
from pyllm.generation.logits import LogitsEditor

VOCAB = 12
tokens = st.integers(0, VOCAB - 1)
prompts = st.lists(tokens, min_size=1, max_size=12)


def edited(config, prompt, completion, logits):
    """Logits after `completion`, for a batch in which the row stands between two others."""
    batch = [[1, 2, 3], prompt, [4] * 7]
    editor = LogitsEditor(config, batch, VOCAB, {9, 10}, torch.device("cpu"))
    for step, token in enumerate(completion):
        editor.append(torch.tensor([step % VOCAB, token, 5]))
    return editor.edit(torch.stack([-logits, logits, logits * 2]))[1]


@settings(max_examples=60, deadline=None)
@given(
    prompt=prompts,
    completion=st.lists(tokens, max_size=8),
    penalty=st.sampled_from([1.0, 0.5, 1.3]),
    ngram=st.integers(0, 4),
    minimum=st.integers(0, 8),
)
def test_equal_to_the_processors_of_transformers(prompt, completion, penalty, ngram, minimum):
    processors = pytest.importorskip("transformers").generation.logits_process
    logits = torch.randn(VOCAB)
    config = GenerationConfig(repetition_penalty=penalty, no_repeat_ngram_size=ngram, min_new_tokens=minimum)
    ids = torch.tensor([prompt + completion])
    wanted = processors.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[None].clone())
    if ngram:
        wanted = processors.NoRepeatNGramLogitsProcessor(ngram)(ids, wanted)
    wanted = processors.MinNewTokensLengthLogitsProcessor(len(prompt), minimum, [9, 10], device="cpu")(
        ids, wanted
    )
    assert torch.equal(edited(config, prompt, completion, logits), wanted[0])


@settings(max_examples=30, deadline=None)
@given(
    prompt=prompts,
    completion=st.lists(tokens, max_size=8),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    bias=st.dictionaries(tokens, st.floats(-5, 5) | st.just(-torch.inf)),
)
def test_presence_frequency_and_bias(prompt, completion, presence, frequency, bias):
    logits = torch.randn(VOCAB)
    config = GenerationConfig(presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias)
    counts = Counter(completion)
    wanted = [
        logit - presence * (token in counts) - frequency * counts[token] + bias.get(token, 0.0)
        for token, logit in enumerate(logits.tolist())
    ]
    torch.testing.assert_close(edited(config, prompt, completion, logits), torch.tensor(wanted))


def test_dropping_rows_keeps_each_history():
    config = GenerationConfig(
        repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=0.5, no_repeat_ngram_size=2
    )
    batch = [[1, 2, 3], [4, 5, 4, 6], [7]]
    together = LogitsEditor(config, batch, VOCAB, (), torch.device("cpu"))
    together.append(torch.tensor([0, 4, 7]))
    together.select(torch.tensor([2, 1]))
    alone = LogitsEditor(config, [batch[1]], VOCAB, (), torch.device("cpu"))
    alone.append(torch.tensor([4]))
    logits = torch.randn(VOCAB)
    result = together.edit(torch.stack([-logits, logits]))[1]
    assert torch.equal(result, alone.edit(logits[None])[0])
    assert result.isneginf().sum() == 2


def test_the_argument_is_left_alone():
    logits = torch.randn(1, VOCAB)
    kept = logits.clone()
    config = GenerationConfig(
        min_new_tokens=1, repetition_penalty=1.5, presence_penalty=1.0, logit_bias={1: 1.0}
    )
    LogitsEditor(config, [[1]], VOCAB, {2}, torch.device("cpu")).edit(logits)
    assert torch.equal(logits, kept)
