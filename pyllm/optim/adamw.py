"""AdamW over the fused step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyllm.ops.adamw import adamw_steps

_HALF = (torch.bfloat16, torch.float16)
# Far apart, so that neighbouring seeds do not share the noise of neighbouring parameters.
_SEED_STRIDE = 0x9E3779B97F4A7C15


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019); equals torch.optim.AdamW to rounding.

    The moments are float32 (float64 for float64 parameters), named `exp_avg` and `exp_avg_sq` beside `step` in `state`,
    as torch names them.

    Args:
        params: parameters, (name, parameter) pairs, or parameter groups; groups may set any of the options.
        lr: learning rate, >= 0.
        betas: decay of the two moments, each in [0, 1).
        eps: added to the root of the second moment, >= 0.
        weight_decay: >= 0.
        master_weights: keep a float32 copy (`master` in `state`) of bfloat16 and float16 parameters, so that updates
            below their resolution are not lost. Without it the rounded parameter is all there is.
        stochastic_rounding: round bfloat16 parameters up or down at random, so that they are right on average; saves
            the master copy, 4 of 14 bytes a parameter. Only with master_weights=False.
        rounding_seed: of the noise, which depends on it, the parameter's number and the step.

    Raises:
        ValueError: an option is NaN or out of range, or stochastic_rounding comes with master weights.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        master_weights: bool = True,
        stochastic_rounding: bool = False,
        rounding_seed: int = 0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "master_weights": master_weights,
            "stochastic_rounding": stochastic_rounding,
            "rounding_seed": rounding_seed,
        }
        _check_options(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; options that it does not set are the optimizer's."""
        _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, grad_scale: float = 1.0
    ) -> float | None:
        """Updates every parameter that has a gradient.

        Args:
            closure: recomputes and returns the loss.
            grad_scale: multiplies the gradients first: `clip_coefficient(norm, max_norm)` clips for free. The
                gradients themselves are not changed.

        Returns:
            The closure's loss, if there is one.

        Raises:
            ValueError: grad_scale is NaN. RuntimeError: a gradient is sparse. Then nothing has been updated.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if math.isnan(grad_scale):
            raise ValueError("AdamW.step: grad_scale must be a number, got nan")
        if any(
            p.grad.is_sparse for group in self.param_groups for p in group["params"] if p.grad is not None
        ):
            raise RuntimeError("AdamW.step: sparse gradients are not supported; make the embedding dense")
        number = 0
        for group in self.param_groups:
            numbers = range(number, number + len(group["params"]))
            self._update_group(group, numbers, grad_scale)
            number += len(group["params"])
        return loss

    def _update_group(self, group: dict[str, Any], numbers: range, grad_scale: float) -> None:
        """One call for the parameters of each kind: kept as they are, with a master copy, rounded stochastically."""
        kinds: dict[str, list[tuple[Tensor, Tensor, dict[str, Tensor], int]]] = {}
        for p, number in zip(group["params"], numbers, strict=True):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state.update(_new_state(p))
            # Also where a state without master weights was loaded.
            if "master" not in state and group["master_weights"] and p.dtype in _HALF:
                state["master"] = p.detach().to(torch.float32).contiguous()
            stochastic = group["stochastic_rounding"] and p.dtype is torch.bfloat16
            kind = "master" if "master" in state else "stochastic" if stochastic else "plain"
            kinds.setdefault(kind, []).append((p, p.grad, state, number))
        for kind, work in kinds.items():
            params, grads, states, kind_numbers = zip(*work, strict=True)
            torch._foreach_add_([state["step"] for state in states], 1)
            # A parameter with gaps or transposed strides takes a round trip through a dense copy.
            dense = [p if p.is_contiguous() else p.contiguous() for p in params]
            adamw_steps(
                dense,
                grads,
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                lr=float(group["lr"]),
                betas=group["betas"],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                steps=[int(state["step"]) for state in states],
                grad_scale=grad_scale,
                masters=[state["master"] for state in states] if kind == "master" else None,
                rounding_seeds=[(group["rounding_seed"] + n * _SEED_STRIDE) % 2**63 for n in kind_numbers]
                if kind == "stochastic"
                else None,
            )
            for p, copy in zip(params, dense, strict=True):
                if copy is not p:
                    p.copy_(copy)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict()` returned, also torch.optim.AdamW's; moments keep full precision."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for option in ("master_weights", "stochastic_rounding", "rounding_seed"):
                group.setdefault(option, self.defaults[option])
        # torch casts moments and master to the parameter's dtype, losing bits, and shares `step` with the source.
        saved_ids = (i for group in state_dict["param_groups"] for i in group["params"])
        params = (p for group in self.param_groups for p in group["params"])
        for saved_id, p in zip(saved_ids, params, strict=True):
            saved = state_dict["state"].get(saved_id, {})
            wide = torch.promote_types(p.dtype, torch.float32)
            for name in ("exp_avg", "exp_avg_sq", "master"):
                if name in saved:
                    self.state[p][name] = saved[name].detach().to(p.device, wide, copy=True).contiguous()
            if "step" in saved:
                self.state[p]["step"] = torch.tensor(float(saved["step"]), dtype=torch.float32)


def _new_state(p: Tensor) -> dict[str, Tensor]:
    wide = torch.promote_types(p.dtype, torch.float32)
    return {
        "step": torch.zeros((), dtype=torch.float32),
        "exp_avg": torch.zeros(p.shape, dtype=wide, device=p.device),
        "exp_avg_sq": torch.zeros(p.shape, dtype=wide, device=p.device),
    }


def _check_options(options: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        value = float(options[name])
        if not (value >= 0.0 and math.isfinite(value)):
            raise ValueError(f"AdamW: {name} must be finite and >= 0, got {value}")
    if options["stochastic_rounding"] and options["master_weights"]:
        raise ValueError("AdamW: stochastic_rounding is for master_weights=False, got both")
    betas = options["betas"]
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"AdamW: betas must be two numbers in [0, 1), got {betas}")
