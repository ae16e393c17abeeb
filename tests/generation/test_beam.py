"""Beam search and typical decoding against transformers, token for token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TypicalLogitsWarper

from pyllm.checkpoints import load_checkpoint
from pyllm.generation import GenerationConfig, generate
from pyllm.generation.logits import typical
from pyllm.models import Transformer
from tests.models.hf import ids, make

OPTIONS: dict[str, dict[str, object]] = {
    "plain": {"num_beams": 4},
    "short": {"num_beams": 3, "length_penalty": -1.0},
    "long": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
    "early": {"num_beams": 5, "early_stopping": True, "num_return_sequences": 3},
    "edited": {
        "num_beams": 4,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "num_return_sequences": 4,
    },
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder: Path = tmp_path_factory.mktemp("llama")
    make("llama").save_pretrained(folder)
    return load_checkpoint(folder).network


@pytest.mark.parametrize("name", OPTIONS)
def test_beams_are_those_of_transformers(name: str, network: Transformer) -> None:
    theirs, options = make("llama"), OPTIONS[name]
    ends = [2, 5, 11, 30, 41, 60]
    ours = GenerationConfig(max_new_tokens=20, **options)
    for seed in range(3):
        prompt = ids(1, 5 + seed, seed=seed)
        with torch.no_grad():
            expected = theirs.generate(
                prompt, max_new_tokens=20, do_sample=False, eos_token_id=ends, pad_token_id=0, **options
            )[:, prompt.shape[1] :]
        completions = generate(network, [prompt[0].tolist()], ours, eos_token_ids=ends)
        assert len(completions) == len(expected)
        for completion, row in zip(completions, expected.tolist(), strict=True):
            length = len(completion.token_ids)
            assert completion.token_ids == row[:length]
            assert set(row[length:]) <= {2}  # what transformers fills with
            full = network(torch.tensor([[*prompt[0].tolist(), *completion.token_ids[:-1]]])).log_softmax(-1)[
                0
            ]
            own = full[prompt.shape[1] - 1 :].gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(completion.logprobs), own, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mass", [0.05, 0.4, 0.9, 0.999])
def test_typical_keeps_what_transformers_keeps(mass: float) -> None:
    logits = torch.randn(40, 97, generator=torch.Generator().manual_seed(0)) * 3
    expected = TypicalLogitsWarper(mass)(None, logits)
    assert torch.equal(typical(logits, mass), expected)


def test_typical_sampling_draws_from_them_alone(network: Transformer) -> None:
    prompt = ids(1, 6)
    with torch.no_grad():
        kept = typical(network(prompt)[:, -1], 0.3).isfinite()[0]
    config = GenerationConfig(
        max_new_tokens=1, temperature=1.0, typical_p=0.3, num_return_sequences=200, seed=1
    )
    drawn = {c.token_ids[0] for c in generate(network, [prompt[0].tolist()], config)}
    assert drawn <= set(kept.nonzero()[:, 0].tolist())
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "temperature": 1.0}, "temperature must be 0 with num_beams above 1"),
        ({"num_beams": 2, "stop": "x"}, "stop must be"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences must be at most num_beams"),
        ({"num_beams": 0}, "num_beams must be an integer at least 1"),
        ({"early_stopping": "always"}, "early_stopping must be True, False or"),
        ({"typical_p": 0.0}, "typical_p must be a number"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**options)
