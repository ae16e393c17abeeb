"""What is sampled has, to the bit, the log-probability that training gives it: one arithmetic from end to end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyllm import GenerationConfig, Model, ops
from pyllm.models import ModelConfig, Transformer
from pyllm.nn.quantized import QuantizedLinear
from pyllm.ops import _library
from pyllm.quantization import quantize
from tests.ops.conftest import levels

PROMPT_LENGTHS = (1, 290, 37)  # one crosses the border of attention's key blocks while it grows
CONFIG = ModelConfig(
    vocab_size=300,
    hidden_size=96,
    intermediate_size=200,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=400,
    initializer_range=0.2,
)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def network(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    return Transformer(CONFIG, dtype=request.param)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(300, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS]


def training_log_probs(network: Transformer, texts: list[list[int]]) -> list[Tensor]:
    """Per text, of each token but the first: the trainer's loss over texts packed into one row, gradients on."""
    ids = torch.tensor([[token for text in texts for token in text]])
    documents = torch.tensor([[number for number, text in enumerate(texts) for _ in text]])
    hidden = network.hidden_states(ids[:, :-1], document_ids=documents[:, :-1])
    loss = ops.linear_cross_entropy(hidden, network.lm_head_weight, ids[:, 1:], reduction="none")
    assert loss.requires_grad
    packed = torch.cat([-loss.detach()[0], torch.zeros(1)])
    return [part[:-1] for part in packed.split([len(text) for text in texts])]


@pytest.mark.parametrize("level", levels())
def test_generated_log_probs_are_the_trainers(network: Transformer, level: str):
    config = GenerationConfig(max_new_tokens=40, temperature=0.8, seed=3, ignore_eos=True)
    with _library.forced_isa(level):
        together = Model(network).generate(prompts(), config)
        texts = [[*done.prompt_token_ids, *done.token_ids] for done in together]
        trained = training_log_probs(network, texts)
        for done, text, expected in zip(together, texts, trained, strict=True):
            assert torch.equal(torch.tensor(done.logprobs), expected[-40:])
            assert torch.equal(Model(network).log_probs(text), expected)
        (alone,) = Model(network).generate(prompts()[1], config)
        assert alone.logprobs == together[1].logprobs


@pytest.mark.parametrize("level", levels())
def test_a_prompt_in_chunks_is_the_prompt_at_once(network: Transformer, level: str):
    ids = torch.tensor([prompts()[1]])
    with _library.forced_isa(level), torch.inference_mode():
        whole = network.hidden_states(ids)
        for size in (1, 129) if level != "scalar" else (129,):
            cache = network.new_cache(1)
            chunks = [network.hidden_states(chunk, kv_cache=cache) for chunk in ids.split(size, 1)]
            assert torch.equal(torch.cat(chunks, 1), whole), size


@pytest.mark.parametrize("level", levels())
def test_log_probs_of_a_quantized_head_are_those_of_given_text(network: Transformer, level: str):
    assert network.lm_head is not None
    network.lm_head = QuantizedLinear(quantize(network.lm_head.weight, "q8_0"))
    config = GenerationConfig(max_new_tokens=40, temperature=0.8, seed=3, ignore_eos=True)
    with _library.forced_isa(level):
        for done in Model(network).generate(prompts(), config):
            text = [*done.prompt_token_ids, *done.token_ids]
            assert torch.equal(torch.tensor(done.logprobs), Model(network).log_probs(text)[-40:])
