"""Quantized checkpoints through transformers' `from_pretrained`, in place: the values of dequantized models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pyllm
from pyllm.integrations.transformers.packed_layers import FrozenLinear, PackedExperts, PackedLinear
from tests.assets import asset
from tests.checkpoints import test_gguf_families as gguf_files
from tests.checkpoints import test_quantized_folders as folders
from tests.conftest import SMOLLM2
from tests.integrations import models
from tests.models.hf import make

transformers = models.transformers
Auto = transformers.AutoModelForCausalLM
OTHERS = dict.fromkeys(("attention", "rms_norm", "rope", "swiglu", "experts", "loss"), False)
NEEDS_ACCELERATE = "transformers reads GGUF files with accelerate only"

# quantization_config, how weights are quantized, dtype in which the values are exact
FOLDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "gptq": lambda: (folders.gptq_settings(4, 32, "gptq", False), folders.gptq(4, 32, version=1)),
    "gptq-act-order": lambda: (
        folders.gptq_settings(4, 32, "gptq_v2", False),
        folders.gptq(4, 32, version=2, act_order=True),
    ),
    "awq": lambda: (folders.AWQ, folders.awq()),
    "nf4": lambda: (folders.NF4, folders.nf4(True)),
    "int8": lambda: (folders.INT8, folders.int8_rows),
    "gptq-3-bits": lambda: (folders.gptq_settings(3, 32, "gptq", False), folders.gptq(3, 32, version=1)),
}


def plain_twin(model: Any, values: dict[str, torch.Tensor]) -> Any:
    """An unpatched model with the same weights, the quantized ones spelt out."""
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig(**folders.CONFIG)).eval()
    state = model.state_dict() | {name: value.float() for name, value in values.items()}
    assert set(plain.state_dict()) == set(state)
    plain.load_state_dict(state)
    return plain


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(kind: str, tmp_path: Path) -> None:
    settings, quantize = FOLDERS[kind]()
    values = folders.write(tmp_path, settings, quantize)
    report = pyllm.patch(**OTHERS)
    assert "gguf" in report.replaced["quantized"]
    model = Auto.from_pretrained(tmp_path, dtype=torch.float32)
    kinds = {type(module) for module in model.modules() if isinstance(module, FrozenLinear)}
    assert kinds == {FrozenLinear if kind == "gptq-3-bits" else PackedLinear}
    plain = plain_twin(model, values)
    ids = torch.randint(3, 50, (2, 9))
    with torch.no_grad():
        expected = plain(ids).logits
        assert (model(ids).logits - expected).abs().max() < 1e-3 * expected.abs().max()
    tokens = model.generate(ids[:1], max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=-1)
    ours = pyllm.load(tmp_path)
    # GPTQ of 3 bits has no kernels; a network of bfloat16 is then what dtype="auto" would mean.
    assert (
        tokens[0, 9:].tolist()
        == ours.generate([ids[0].tolist()], max_new_tokens=12, ignore_eos=True)[0].token_ids
    )
    with pytest.raises(ValueError, match="quantiz"):
        model.save_pretrained(tmp_path / "saved")


def test_the_bare_model_of_a_folder(tmp_path: Path) -> None:
    folders.write(tmp_path, folders.AWQ, folders.awq())
    pyllm.patch()
    whole = Auto.from_pretrained(tmp_path, dtype=torch.float32)
    bare = transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(3, 50, (2, 9))
    with torch.no_grad():
        assert torch.equal(bare(ids).last_hidden_state, whole.model(ids).last_hidden_state)


def test_smollm2_in_place() -> None:
    pytest.importorskip("accelerate", reason=NEEDS_ACCELERATE)
    path = asset(SMOLLM2)
    pyllm.patch()
    model = Auto.from_pretrained(path.parent, gguf_file=path.name)
    assert model.dtype == torch.float32
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(layers) == 7 * 30 + 1
    assert (
        model.get_memory_footprint() < 1.5 * path.stat().st_size
    )  # the table lies there twice, as rows and as head
    ours = pyllm.load(path)
    ids = ours.tokenizer.encode("def fibonacci(n):\n")
    tokens = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    assert tokens == ours.generate([ids], max_new_tokens=24)[0].token_ids


@pytest.mark.slow
def test_smollm2_is_what_transformers_dequantizes() -> None:
    pytest.importorskip("accelerate", reason=NEEDS_ACCELERATE)
    path = asset(SMOLLM2)
    theirs = Auto.from_pretrained(path.parent, gguf_file=path.name)
    assert not any(isinstance(module, FrozenLinear) for module in theirs.modules())
    pyllm.patch()
    model = Auto.from_pretrained(path.parent, gguf_file=path.name)
    ids = torch.tensor([[1, 4093, 198, 504, 1761]])
    with torch.no_grad():
        expected = theirs(ids).logits
        assert (model(ids).logits - expected).abs().max() < 1e-3 * expected.abs().max()
    options = {"max_new_tokens": 24, "do_sample": False}
    assert torch.equal(model.generate(ids, **options), theirs.generate(ids, **options))


def test_gguf_experts(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason=NEEDS_ACCELERATE)
    written = make("qwen3_moe-wide")
    kinds = {"_exps.weight": gguf_files.Kind.Q8_0, "attn_q.weight": gguf_files.Kind.Q8_0}
    gguf_files.write(tmp_path / "m.gguf", written, kinds, expert_feed_forward_length=32)
    plain = Auto.from_pretrained(tmp_path, gguf_file="m.gguf", config=written.config).eval()
    pyllm.patch(**OTHERS)
    model = Auto.from_pretrained(tmp_path, gguf_file="m.gguf", config=written.config).eval()
    assert any(isinstance(module, PackedExperts) for module in model.modules())
    ids = models.tokens(2, 9)
    with torch.no_grad():
        expected = plain(ids).logits
        assert (model(ids).logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_phi3_is_left_to_transformers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason=NEEDS_ACCELERATE)
    written = make("phi3")
    gguf_files.write(tmp_path / "m.gguf", written, **gguf_files.phi3_keys(written))
    pyllm.patch()
    model = Auto.from_pretrained(tmp_path, gguf_file="m.gguf", config=written.config).eval()
    ids = models.tokens(1, 9)
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, written(ids).logits, atol=1e-4)


def test_quantizing_while_loading_stays_with_bitsandbytes(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    models.decoder("llama").save_pretrained(tmp_path)
    pyllm.patch()
    settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = Auto.from_pretrained(tmp_path, quantization_config=settings)
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"


def test_other_devices_are_refused(tmp_path: Path) -> None:
    folders.write(tmp_path, folders.AWQ, folders.awq())
    pyllm.patch()
    with pytest.raises(ValueError, match="stay quantized on the CPU only, got 'meta'"):
        Auto.from_pretrained(tmp_path, device_map={"": "meta"})


def test_adapters_on_a_base_in_place(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    values = folders.write(tmp_path, folders.NF4, folders.nf4(True))
    pyllm.patch()
    base = Auto.from_pretrained(tmp_path, dtype=torch.float32)
    twin = plain_twin(base, values)
    ids = torch.randint(3, 50, (2, 9))
    gradients = []
    for model in (base, twin):
        torch.manual_seed(1)
        settings = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        adapted = peft.get_peft_model(model, settings).train()
        adapted(input_ids=ids, labels=ids).loss.backward()
        gradients.append([p.grad for p in adapted.parameters() if p.requires_grad])
    assert len(gradients[0]) == 2 * 7
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()
