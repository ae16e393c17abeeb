"""`pyllm.patch` and `pyllm.unpatch`: a transformers model, a class of them, or all later ones on pyllm's ops."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from pyllm.integrations.transformers import experts as mixtures
from pyllm.integrations.transformers import linear as linears
from pyllm.integrations.transformers import loss as losses
from pyllm.integrations.transformers import mlp, norms, overrides
from pyllm.integrations.transformers import rope as ropes
from pyllm.integrations.transformers.attention import IMPLEMENTATION, register_attention
from pyllm.integrations.transformers.report import PatchReport


@dataclass(frozen=True)
class _Which:
    attention: bool
    rms_norm: bool
    rope: bool
    swiglu: bool
    experts: bool
    loss: bool
    linear: bool


def patch(
    model_or_class: Any = None,
    *,
    attention: bool = True,
    rms_norm: bool = True,
    rope: bool = True,
    swiglu: bool = True,
    experts: bool = True,
    loss: bool = True,
    linear: bool = False,
    quantized: bool = True,
) -> PatchReport:
    """Lets Hugging Face transformers compute on pyllm's kernels; `print` what comes back.

    Weights, state dict, classes and signatures stay what they are: trainers, PEFT, saving and `generate` notice
    nothing. A part is replaced only where a small copy of it, run on random numbers, gives what ours gives. Patching
    twice does nothing the second time.

    Args:
        model_or_class: a model; a class, whose later instances are patched as they are made; or None for every model
            made later. Later models keep an `attn_implementation` that was asked for by name.
        attention: `attn_implementation="pyllm"`, transformers' own interface: never holds the scores, knows padding,
            packed rows, windows, softcap, sinks and position biases.
        rms_norm: RMSNorms, Gemma's too.
        rope: `apply_rotary_pos_emb` of the model's file, for every model of that file.
        swiglu: gated MLPs, and activations that transformers writes as several operators (gelu_new).
        experts: `experts_implementation="pyllm"`, transformers' own interface: mixtures by `pyllm.ops.grouped_linear`.
        loss: in training with labels, logits are made only if somebody looks at them; the model's own loss code, with
            its `num_items_in_batch`, gets the same number.
        linear: torch's Linear and GPT-2's Conv1D: the same bits whatever the batch and threads. Not always faster in
            float32.
        quantized: where `model_or_class` is None: later `from_pretrained` keeps GGUF files (`gguf_file=`), GPTQ, AWQ,
            NF4 and other quantized checkpoints as they are stored and computes on the codes, on the CPU; NF4 and
            LLM.int8 that are made while loading stay with bitsandbytes.

    Returns:
        What was replaced, and what was left and why.

    Raises:
        ImportError: transformers is not installed. TypeError: `model_or_class` is neither model nor class nor None.
    """
    try:
        from transformers import PreTrainedModel
    except ImportError as error:
        raise ImportError(
            "pyllm.patch needs Hugging Face transformers: pip install 'transformers>=5'"
        ) from error
    which = _Which(attention, rms_norm, rope, swiglu, experts, loss, linear)
    register_attention()
    if model_or_class is None:
        report = _patch_class(PreTrainedModel, which)
        if quantized:
            from pyllm.integrations.transformers.quantizers import register_quantizers

            register_quantizers(report)
        return report
    if isinstance(model_or_class, type) and issubclass(model_or_class, torch.nn.Module):
        if not issubclass(model_or_class, PreTrainedModel):
            raise TypeError(
                f"patch: model_or_class must be a transformers model class, got {model_or_class.__name__}"
            )
        return _patch_class(model_or_class, which)
    if not isinstance(model_or_class, torch.nn.Module):
        raise TypeError(
            "patch: model_or_class must be a model, a transformers model class or None, got "
            f"{type(model_or_class).__name__}"
        )
    return _patch_model(model_or_class, which, asked=True)


def unpatch() -> None:
    """Undoes every `patch` of this process: forwards, functions, classes and attention settings are what they were.

    Deep copies of a patched model stay patched; so does what `torch.compile` has compiled.
    """
    overrides.restore_all()


def _patch_class(cls: Any, which: _Which) -> PatchReport:
    report = PatchReport(cls.__name__)
    report.leave("models that exist already", "only those made from now on are patched")
    original = vars(cls).get("post_init", cls.post_init)
    if hasattr(original, "pyllm_patch"):
        overrides.set_attribute(cls, "post_init", original.__wrapped__)
        original = original.__wrapped__

    @functools.wraps(original)
    def post_init(self: Any) -> None:
        original(self)
        _patch_model(self, which, asked=False)

    post_init.__dict__["pyllm_patch"] = True
    overrides.set_attribute(cls, "post_init", post_init)
    for field in fields(which):
        if getattr(which, field.name):
            report.add(field.name, f"later {cls.__name__}", "of later models")
    return report


def _patch_model(model: torch.nn.Module, which: _Which, *, asked: bool) -> PatchReport:
    report = PatchReport(
        type(model).__name__, patched_before=any(overrides.is_patched(module) for module in model.modules())
    )
    if which.attention:
        _patch_attention(model, report, asked)
    if which.rope:
        _patch_rope(model, report)
    if which.rms_norm:
        _patch_norms(model, report)
    if which.swiglu:
        _patch_mlps(model, report)
    if which.experts:
        _patch_experts(model, report, asked)
    if which.linear:
        _patch_linears(model, report)
    if which.loss:
        _patch_loss(model, report)
    return report


def _patch_attention(model: torch.nn.Module, report: PatchReport, asked: bool) -> None:
    from transformers import PreTrainedModel

    seen = set()
    for name, module in model.named_modules():
        if not isinstance(module, PreTrainedModel) or id(module.config) in seen:
            continue
        seen.add(id(module.config))
        config, what = module.config, name or type(module).__name__
        before = config._attn_implementation
        default = before in ("sdpa", None) or (before == "eager" and not module._supports_sdpa)
        if before == IMPLEMENTATION:
            continue
        if not module._can_set_attn_implementation():
            report.leave(f"attention of {what}", "its code does not use transformers' AttentionInterface")
        elif config.output_attentions:
            report.leave(f"attention of {what}", "config.output_attentions asks for the weights")
        elif not asked and not default:
            report.leave(f"attention of {what}", f"attn_implementation={before!r} was asked for")
        else:
            overrides.set_attribute(config, "_attn_implementation_internal", IMPLEMENTATION)
            report.add("attention", what, f"{type(module).__name__} ({before} -> pyllm)")


def _patch_rope(model: torch.nn.Module, report: PatchReport) -> None:
    for file in sorted({type(module).__module__ for module in model.modules()}):
        original = getattr(sys.modules.get(file), ropes.NAME, None)
        if original is None or not file.startswith("transformers.") or hasattr(original, "pyllm_patch"):
            continue
        ours = ropes.rope_function(original)
        if ours is None:
            report.leave(f"{file}.{ropes.NAME}", "it does not rotate halves by tables of one row per token")
            continue
        ours.__dict__["pyllm_patch"] = True
        overrides.set_attribute(sys.modules[file], ropes.NAME, ours)
        report.add("rope", f"{file}.{ropes.NAME}", f"{ropes.NAME} of {file.rpartition('.')[2]}")


def _patch_norms(model: torch.nn.Module, report: PatchReport) -> None:
    make = _once_per_class(norms.rms_norm_forward)
    for name, module in model.named_modules():
        if norms.looks_like_rms_norm(module):
            _replace(
                module, make(module), report, "rms_norm", name, "it does not compute an RMSNorm that we know"
            )
        elif isinstance(module, torch.nn.LayerNorm):
            report.leave("LayerNorm", "torch's is one fused operator already")


def _patch_mlps(model: torch.nn.Module, report: PatchReport) -> None:
    make = _once_per_class(mlp.gated_mlp_forward)
    for name, module in model.named_modules():
        forward = make(module)
        if forward is not None:
            _replace(module, forward, report, "swiglu", name, "")
        elif type(module).__name__.endswith("MLP") and not _has_activation(module):
            report.leave(type(module).__name__, "it is no gated MLP that we know")
    gated = {id(c) for m in model.modules() if overrides.is_patched(m) for c in m.children()}
    for name, module, activation in mlp.composed_activations(model):
        if id(module) not in gated:
            _replace(module, mlp.activation_forward(activation), report, "swiglu", name, "")


def _has_activation(module: torch.nn.Module) -> bool:
    return any(type(c).__module__ == "transformers.activations" for c in module.children())


def _patch_experts(model: torch.nn.Module, report: PatchReport, asked: bool) -> None:
    found: list[Any] = [
        m for m in model.modules() if type(m).__name__.endswith("Experts") and hasattr(m, "config")
    ]
    if found and not mixtures.register_experts():
        report.leave("experts", "this transformers has no ExpertsInterface")
        return
    changed = set()  # layers share their configuration
    for module in found:
        what, config = type(module).__name__, module.config
        before, reason = getattr(config, "_experts_implementation", None), mixtures.why_not(module)
        if reason is not None:
            report.leave(what, reason)
        elif id(config) in changed:
            report.add("experts", what, what)
        elif not asked and before not in ("grouped_mm", mixtures.IMPLEMENTATION, None):
            report.leave(what, f"experts_implementation={before!r} was asked for")
        elif before != mixtures.IMPLEMENTATION:
            overrides.set_attribute(config, "_experts_implementation_internal", mixtures.IMPLEMENTATION)
            changed.add(id(config))
            report.add("experts", what, what)


def _patch_linears(model: torch.nn.Module, report: PatchReport) -> None:
    for name, module in model.named_modules():
        forward = linears.linear_forward(module)
        if forward is not None:
            _replace(module, forward, report, "linear", name, "")


def _patch_loss(model: torch.nn.Module, report: PatchReport) -> None:
    reason = losses.why_not(model)
    if reason is not None:
        report.leave("loss", reason)
        return
    head = losses.output_head(model)
    assert head is not None
    if overrides.is_patched(model):
        return
    ours = vars(head)["forward"].__func__ if overrides.is_patched(head) else type(head).forward
    if overrides.has_own_forward(model) or (
        overrides.has_own_forward(head) and not overrides.is_patched(head)
    ):
        report.leave("loss", "model or head have a forward of somebody else's")
        return
    overrides.set_forward(head, losses.head_forward(ours))
    overrides.set_forward(model, losses.loss_forward(model))
    report.add("loss", type(model).__name__, f"{type(model).__name__} (logits on demand)")


def _replace(
    module: torch.nn.Module,
    forward: Callable[..., Any] | None,
    report: PatchReport,
    kind: str,
    name: str,
    why_not: str,
) -> None:
    what = type(module).__name__
    if overrides.is_patched(module):
        return
    if overrides.has_own_forward(module):
        report.leave(name, "it has a forward of somebody else's")
    elif forward is None:
        report.leave(what, why_not)
    else:
        overrides.set_forward(module, forward)
        report.add(kind, name, what)


def _once_per_class(make: Callable[..., Any]) -> Callable[..., Any]:
    """Modules of one class in one model are alike, but for settings as plain as an eps: one trial serves all."""
    found: dict[Any, Any] = {}

    def for_module(module: torch.nn.Module) -> Any:
        key = (type(module), tuple(type(child) for child in module.children()))
        if key not in found:
            found[key] = make(module)
        return found[key]

    return for_module
