"""llama.cpp as the judge: it reads the files that the commands write, and generates what we generate from them.

It rounds activations to 8 bits where weights have 8 or fewer, we do not. That this is all the difference is shown from
both sides: rounded as it rounds, our network gives its distributions, and so does the file's twin in float32, where it
rounds nothing. Skipped where llama-cpp-python is not installed (it builds from source); what was run is in
docs/quantization.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyllm
from pyllm.cli import main
from pyllm.models import ModelConfig, Transformer
from pyllm.nn.quantized import QuantizedLinear
from pyllm.ops import QuantizedTensor
from pyllm.quantization import GGUF_FORMATS
from pyllm.quantization.gguf_blocks import BLOCKS
from tests.assets import asset
from tests.conftest import SMOLLM2

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytestmark = pytest.mark.slow
PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Once upon a time, in 1984,")
# Mean KL divergence in nats. Where llama.cpp rounds and we do not: random weights of 2 to 8 bits feel it more than real
# ones.
REAL, RANDOM = 1e-2, 3e-2
# Of float32 weights: keys and values in float16, as it keeps them unless told otherwise, and in float32.
PLAIN, TWIN = 1e-5, 1e-8
# Of the same rounding: where two sums of floats differ, a number next to a border falls on its other side.
ROUNDED = 5e-4
CLOSE = 0.3  # logits


def _blocks_of_32(x: torch.Tensor) -> torch.Tensor:
    """Q8_0: 127 steps to either side of zero, the scale in float16."""
    blocks = x.unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = torch.where(scale > 0, blocks / scale, 0).round()
    return (codes * scale.half().float()).flatten(-2)


def _blocks_of_256(x: torch.Tensor) -> torch.Tensor:
    """Q8_K: the number of the largest size becomes -127, the scale is float32."""
    blocks = x.unflatten(-1, (-1, 256))
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = largest / -127
    codes = torch.where(scale != 0, blocks / scale, 0).round().clamp(max=127)
    return (codes * scale).flatten(-2)


@contextmanager
def _rounding_as_theirs(network: Transformer) -> Iterator[None]:
    """Activations in the type that llama.cpp multiplies each weight's type with."""

    def rounded(format: str, x: torch.Tensor) -> torch.Tensor:
        return (_blocks_of_256 if BLOCKS[format.upper()].elements == 256 else _blocks_of_32)(x)

    def before(format: str, _: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (rounded(format, args[0]), *args[1:])

    def after(
        format: str, _: torch.nn.Module, __: object, sums: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        return (rounded(format, sums[0]), *sums[1:])

    with ExitStack() as hooks:
        for module in network.model.layers.modules():
            if isinstance(module, QuantizedLinear):
                hooks.enter_context(module.register_forward_pre_hook(partial(before, module.weight.format)))
        head = network.lm_head_weight
        assert isinstance(head, QuantizedTensor)
        hooks.enter_context(network.model.norm.register_forward_hook(partial(after, head.format)))
        yield


@contextmanager
def _theirs(path: Path, **options: Any) -> Iterator[Any]:
    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=2, n_batch=256, logits_all=True, verbose=False, **options
    )
    yield model
    model.close()


def _assert_close(ours: pyllm.Model, theirs: Any, ids: list[int], most: float) -> None:
    with torch.inference_mode():
        log_p = ours(torch.tensor([ids]))[0].double().log_softmax(-1)
    theirs.reset()
    theirs.eval(ids)
    log_q = torch.from_numpy(np.array(theirs.scores[: len(ids)])).double().log_softmax(-1)
    divergence = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    assert divergence < most


def _assert_same_text(ours: pyllm.Model, theirs: Any, prompt: str, count: int) -> None:
    """What it generates, up to a first token where our best two lie close; then it starts another text."""
    assert ours.tokenizer is not None
    ids = ours.tokenizer.encode(prompt, add_special_tokens=True)
    assert theirs.tokenize(prompt.encode(), add_bos=True) == ids
    theirs.reset()
    generator = theirs.generate(ids, temp=0.0)
    made = [next(generator) for _ in range(count)]
    generator.close()
    wanted = ours.generate(ids, max_new_tokens=count, ignore_eos=True)[0].token_ids
    with torch.inference_mode():
        best = ours(torch.tensor([[*ids, *wanted]]))[0, len(ids) - 1 : -1].topk(2).values
    for step, (token, expected) in enumerate(zip(made, wanted, strict=True)):
        if token != expected:
            assert float(best[step, 0] - best[step, 1]) < CLOSE, f"{prompt!r}, step {step}"
            return


def _assert_agreement(path: Path, most: float, count: int = 16) -> None:
    ours = pyllm.load(path)
    assert ours.tokenizer is not None
    text = asset("wikitext2/valid.txt").read_text(encoding="utf-8")[:1000]
    with _theirs(path) as theirs:
        ids = ours.tokenizer.encode(text, add_special_tokens=True, disallowed_special=())[:100]
        assert theirs.tokenize(text.encode(), add_bos=True, special=False)[:100] == ids
        _assert_close(ours, theirs, ids, most)
        for prompt in PROMPTS:
            _assert_same_text(ours, theirs, prompt, count)


@pytest.fixture(scope="module")
def wide_folder(smollm2_model: pyllm.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random layers 256 wide, so that every matrix fills blocks of 256, with SmolLM2's tokenizer."""
    config = ModelConfig(
        vocab_size=49152,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_ids=(2,),
    )
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("wide")
    pyllm.Model(Transformer(config).eval(), smollm2_model.tokenizer).save(folder)
    return folder


@pytest.mark.parametrize("format", GGUF_FORMATS)
def test_quantized_files(format: str, wide_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    arguments = ["--model", str(wide_folder), "--format", format.lower(), "--out", str(path)]
    assert main(["quantize", *arguments]) == 0
    _assert_agreement(path, RANDOM)
    assert main(["convert", "--model", str(path), "--out", str(tmp_path / "twin.gguf")]) == 0
    ours = pyllm.load(path)
    assert ours.tokenizer is not None
    ids = ours.tokenizer.encode(PROMPTS[1] * 8, add_special_tokens=True)
    float32 = llama_cpp.GGML_TYPE_F32
    with _theirs(tmp_path / "twin.gguf", type_k=float32, type_v=float32) as theirs:
        _assert_close(ours, theirs, ids, TWIN)
    if format in ("Q4_1", "Q5_1"):
        return  # It multiplies minimums by sums that are rounded otherwise than their terms.
    with _theirs(path, type_k=float32, type_v=float32) as theirs, _rounding_as_theirs(ours.network):
        _assert_close(ours, theirs, ids, ROUNDED)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_converted_files(dtype: str, wide_folder: Path, tmp_path: Path) -> None:
    """A folder as GGUF, and that as a folder as GGUF again: the same weights."""
    once, folder, again = tmp_path / "once.gguf", tmp_path / "folder", tmp_path / "again.gguf"
    for source, target in ((wide_folder, once), (once, folder), (folder, again)):
        assert main(["convert", "--model", str(source), "--out", str(target), "--dtype", dtype]) == 0
    _assert_agreement(again, PLAIN if dtype == "float32" else RANDOM)
    first, last = pyllm.load(once, dtype="float32"), pyllm.load(again, dtype="float32")
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, last.network.state_dict()[name]), name


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_real_files(name: str, request: pytest.FixtureRequest) -> None:
    _assert_agreement(asset(SMOLLM2) if name == "smollm2" else request.getfixturevalue("gemma3_path"), REAL)
