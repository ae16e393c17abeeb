"""`pyllm.patch` and `pyllm.unpatch`: what they set, say, refuse and take back."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from typing import Any

import pytest
import torch

import pyllm
from tests.integrations import models


def everything_patchable(model: Any) -> list[Any]:
    """What a patch may touch, to be compared by identity."""
    files = {type(m).__module__ for m in model.modules()}
    functions = [getattr(sys.modules[file], "apply_rotary_pos_emb", None) for file in sorted(files)]
    forwards = [vars(m).get("forward") for m in model.modules()]
    kernels = [type(m).forward for m in model.modules()]
    configs = [
        vars(m.config)["_attn_implementation_internal"] for m in model.modules() if hasattr(m, "config")
    ]
    return [*functions, *forwards, *kernels, *configs, type(model).post_init]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi3"])
def test_unpatch_restores_everything(family: str) -> None:
    model = models.decoder(family)
    before = everything_patchable(model)
    names = {id(m): set(vars(m)) for m in model.modules()}
    pyllm.patch(model, linear=True)
    assert any(a is not b for a, b in zip(before, everything_patchable(model), strict=True))
    pyllm.unpatch()
    assert all(a is b for a, b in zip(before, everything_patchable(model), strict=True))
    assert names == {id(m): set(vars(m)) for m in model.modules()}
    pyllm.unpatch()  # nothing to do


def test_patching_twice_changes_nothing() -> None:
    model = models.decoder("llama")
    pyllm.patch(model, linear=True)
    first = everything_patchable(model)
    again = pyllm.patch(model, linear=True)
    assert again.replaced == {}
    assert "already patched" in str(again)
    assert all(a is b for a, b in zip(first, everything_patchable(model), strict=True))


def test_parts_can_be_added_later() -> None:
    model = models.decoder("llama")
    pyllm.patch(model, loss=False)
    report = pyllm.patch(model)
    assert set(report.replaced) == {"loss"}
    assert type(model.train()(input_ids=models.tokens(1, 4), labels=models.tokens(1, 4)).logits).__name__ == (
        "DeferredLogits"
    )


def test_report() -> None:
    report = pyllm.patch(models.decoder("mixtral"))
    assert report.replaced["rms_norm"] == [
        *(f"model.layers.{i}.{n}" for i in (0, 1) for n in ("input_layernorm", "post_attention_layernorm")),
        "model.norm",
    ]
    text = str(report)
    assert text.startswith("pyllm.patch(MixtralForCausalLM)")
    assert "5 x MixtralRMSNorm" in text
    assert "sdpa -> pyllm" in text
    assert report.classes["experts"] == {"MixtralExperts": 2}
    assert str(pyllm.patch(models.decoder("gpt2"), attention=False)).count("LayerNorm") == 1


def test_class_patches_later_instances() -> None:
    earlier = models.decoder("llama")
    report = pyllm.patch(type(earlier))
    assert "models that exist already" in report.left
    later, other = models.decoder("llama"), models.decoder("qwen2")
    assert earlier.config._attn_implementation == other.config._attn_implementation == "sdpa"
    assert later.config._attn_implementation == "pyllm"
    assert "forward" in vars(later)
    assert "forward" not in vars(earlier)
    pyllm.unpatch()
    assert "post_init" not in vars(type(earlier))
    assert models.decoder("llama").config._attn_implementation == "sdpa"


def test_all_later_models_but_for_what_was_asked_for() -> None:
    pyllm.patch()
    pyllm.patch()
    assert models.decoder("qwen2").config._attn_implementation == "pyllm"
    assert (
        models.decoder("gemma2").config._attn_implementation == "pyllm"
    )  # eager by default, having a softcap
    asked = models.decoder("llama", attn_implementation="eager")
    assert asked.config._attn_implementation == "eager"
    assert "forward" in vars(asked.model.norm)
    pyllm.unpatch()
    assert "forward" not in vars(asked.model.norm)


def test_later_models_from_a_folder(tmp_path: Any) -> None:
    saved = models.decoder("llama")
    saved.save_pretrained(tmp_path)
    pyllm.patch()
    model = models.transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config._attn_implementation == "pyllm"
    for name, weight in saved.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_attention_by_name_alone() -> None:
    pyllm.patch(torch.nn.Linear(1, 1))  # registers; nothing else to do
    model = models.decoder("llama", attn_implementation="pyllm").eval()
    plain = models.decoder("llama").eval()
    ids = models.tokens(2, 9)
    torch.testing.assert_close(model(ids).logits, plain(ids).logits)


def test_what_trainers_look_at_stays() -> None:
    model = models.decoder("llama")
    plain = copy.deepcopy(model)
    pyllm.patch(model, linear=True)
    assert inspect.signature(model.forward) == inspect.signature(plain.forward)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert model.config.to_dict() == plain.config.to_dict()


def test_copies_and_pickles() -> None:
    model = models.decoder("llama").eval()
    pyllm.patch(model)
    ids = models.tokens(1, 6)
    twin = copy.deepcopy(model)
    assert vars(twin.model.norm)["forward"].__self__ is twin.model.norm
    with torch.no_grad():
        twin.model.norm.weight.zero_()
        assert twin(ids).logits.abs().max() == 0
        assert model(ids).logits.abs().max() > 0
    loaded = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_a_patched_model_can_be_freed() -> None:
    import gc
    import weakref

    model = models.decoder("llama")
    pyllm.patch(model, linear=True)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    pyllm.unpatch()


@pytest.mark.parametrize("wrong", [3, "llama", torch.nn.Linear, [models.DECODERS]])
def test_wrong_argument(wrong: Any) -> None:
    with pytest.raises(TypeError, match="model_or_class must be"):
        pyllm.patch(wrong)


def test_attention_weights_are_refused() -> None:
    model = models.decoder("llama")
    pyllm.patch(model)
    with pytest.raises(ValueError, match="output_attentions"):
        model(models.tokens(1, 4), output_attentions=True)
    model.set_attn_implementation("eager")
    assert len(model(models.tokens(1, 4), output_attentions=True).attentions) == 2


def test_a_model_that_wants_its_weights_keeps_its_attention() -> None:
    model = models.decoder("llama", attn_implementation="eager", output_attentions=True)
    report = pyllm.patch(model)
    assert "output_attentions" in report.left["attention of LlamaForCausalLM"]
    assert len(model(models.tokens(1, 4)).attentions) == 2


class OddRMSNorm(torch.nn.Module):
    """Called like a norm, with a norm's parts, and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = torch.nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.abs().mean(-1, keepdim=True) + self.variance_epsilon) * self.weight


class OddMLP(torch.nn.Module):
    """A gated MLP by the names of its parts, which adds its input."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x)) + x
        return y


def test_what_only_looks_alike_is_left() -> None:
    report = pyllm.patch(torch.nn.Sequential(OddRMSNorm(), OddMLP()))
    assert report.replaced == {}
    assert set(report.left) >= {"OddRMSNorm", "OddMLP"}


def test_forwards_of_other_people_are_left() -> None:
    model = models.decoder("llama")
    theirs = model.model.norm.forward
    model.model.norm.forward = lambda x: theirs(x)
    report = pyllm.patch(model)
    assert "model.norm" in report.left
    assert "model.norm" not in report.replaced["rms_norm"]
