import math

import pytest

from pyllm import GenerationConfig


def test_defaults_are_greedy_and_256_tokens():
    config = GenerationConfig()
    assert (config.max_new_tokens, config.temperature, config.seed) == (256, 0.0, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            (field, value)
            for field in ("max_new_tokens", "num_return_sequences")
            for value in (0, -1, 1.5, True, "8", None, math.nan)
        ],
        *[
            (field, value)
            for field in ("min_new_tokens", "top_k", "no_repeat_ngram_size")
            for value in (-1, 0.5, True, None, math.nan)
        ],
        *[("temperature", value) for value in (-0.1, math.nan, math.inf, "1", None, True)],
        *[("top_p", value) for value in (0.0, -0.5, 1.01, math.nan, "1")],
        *[("min_p", value) for value in (-0.01, 1.01, math.nan)],
        *[("repetition_penalty", value) for value in (0, -1, math.nan, math.inf)],
        *[(field, math.nan) for field in ("presence_penalty", "frequency_penalty")],
        *[(field, math.inf) for field in ("presence_penalty", "frequency_penalty")],
        *[("stop", value) for value in ("", ["a", ""], [1], 3, {"a": 1})],
        *[("seed", value) for value in (-1, 2**63, 1.0, True, "7")],
        *[("logprobs", value) for value in (-1, 1.0, "all")],
        *[
            ("logit_bias", value)
            for value in ([1], {"1": 2.0}, {-1: 0.0}, {True: 1.0}, {1: math.nan}, {1: math.inf})
        ],
        *[("ignore_eos", value) for value in (1, None)],
        *[("num_beams", value) for value in (0, 1.5, math.nan)],
        ("num_beam_groups", 2),
        ("diversity_penalty", 0.5),
        ("length_penalty", math.nan),
        ("early_stopping", "always"),
        *[("typical_p", value) for value in (0, 1.01, math.nan)],
        ("penalty_alpha", 0.6),
        ("dola_layers", "high"),
        ("dola_layers", [2]),
    ],
)
def test_a_bad_value_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"^{field}\b"):
        GenerationConfig(**{field: value})


def test_values_that_contradict_each_other():
    with pytest.raises(ValueError, match="min_new_tokens"):
        GenerationConfig(max_new_tokens=4, min_new_tokens=5)
    with pytest.raises(ValueError, match="num_return_sequences"):
        GenerationConfig(num_return_sequences=2)


def test_what_is_accepted():
    config = GenerationConfig(
        stop="\n", logit_bias={3: -math.inf, 4: 2}, temperature=1, num_return_sequences=2
    )
    assert config.stop == ("\n",)
    assert config.logit_bias == {3: -math.inf, 4: 2.0}
    assert GenerationConfig(stop=["a", "b"]).stop == ("a", "b")
    assert [GenerationConfig(logprobs=n).num_top_logprobs for n in (None, False, True, 0, 5)] == [
        0,
        0,
        0,
        0,
        5,
    ]
    unchanged = GenerationConfig(
        num_beams=1, typical_p=1, penalty_alpha=0, length_penalty=1, early_stopping=False
    )
    assert unchanged == GenerationConfig()
