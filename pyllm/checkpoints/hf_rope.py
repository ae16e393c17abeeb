"""RoPE's keys of config.json to `RopeScaling` and back. Keys of transformers 4 and 5 are understood."""

from __future__ import annotations

import math
from typing import Any

from pyllm.models.config import ModelConfig
from pyllm.models.rope import RopeScaling

_ORIGINAL = "original_max_position_embeddings"
# Kind -> the keys it needs and those it may have, beside the ones computed below.
_NEEDED: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}


def read_rope(data: dict[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` and, where the family is `partial`, `rotary_dim`.

    Raises:
        ValueError: a kind of scaling that is not supported, a missing key, or a value of the wrong type.
    """
    # transformers 5 keeps all in rope_parameters; 4 has rope_theta beside rope_scaling, whose kind was "type" once.
    parameters = data.get("rope_parameters") or data.get("rope_scaling") or {}
    if not isinstance(parameters, dict) or any(isinstance(value, dict) for value in parameters.values()):
        raise ValueError(f"rope parameters must be one flat table for all layers, got {parameters!r}")
    fraction = parameters.get("partial_rotary_factor", data.get("partial_rotary_factor", 1.0))
    if fraction != 1.0 and not partial:
        raise ValueError("partial_rotary_factor other than 1 is not supported for this family")
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise ValueError(f"partial_rotary_factor must lie in (0, 1], got {fraction!r}")
    options = {
        "rope_theta": parameters.get("rope_theta", data.get("rope_theta", 10000.0)),
        "rope_scaling": _scaling(parameters, data),
    }
    return options if fraction == 1.0 else options | {"rotary_dim": int(_head_dim(data) * fraction)}


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The keys of `config`'s RoPE, in the form that transformers 4 and 5 both read."""
    keys: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_scaling": None}
    scaling = config.rope_scaling
    if scaling is None:
        return keys
    table = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn", "longrope"):
        table[_ORIGINAL] = scaling.original_max_position_embeddings
    if scaling.attention_factor is not None:
        table["attention_factor"] = scaling.attention_factor
    if scaling.kind == "llama3":
        table |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    elif scaling.kind == "yarn":
        table |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        table |= {} if scaling.truncate else {"truncate": False}
    elif scaling.kind == "longrope":
        table |= {"short_factor": list(scaling.short_factors), "long_factor": list(scaling.long_factors)}
    return keys | {"rope_scaling": table}


def _head_dim(data: dict[str, Any]) -> int:
    width, heads = data.get("hidden_size"), data.get("num_attention_heads")
    if not isinstance(width, int) or not isinstance(heads, int) or heads < 1:
        raise ValueError(f"hidden_size and num_attention_heads must be integers, got {width!r} and {heads!r}")
    return width // heads


def _scaling(parameters: dict[str, Any], data: dict[str, Any]) -> RopeScaling | None:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return None
    if kind == "su":
        kind = "longrope"
    if kind not in _NEEDED:
        raise ValueError(f"rope scaling {kind!r} is not supported, expected one of {sorted(_NEEDED)}")
    missing = [key for key in _NEEDED[kind] if parameters.get(key) is None]
    if missing:
        raise ValueError(f"rope scaling {kind!r} lacks {missing}")
    options = {
        key: parameters[key]
        for key in ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL, "attention_factor")
        if parameters.get(key) is not None
    }
    if kind in ("yarn", "longrope"):
        options.setdefault(_ORIGINAL, data.get(_ORIGINAL, data.get("max_position_embeddings", 2048)))
    if kind == "yarn":
        options |= _yarn_options(parameters)
    if kind == "longrope":
        options.setdefault("factor", _stretch(data, options[_ORIGINAL]))
        options["short_factors"] = _numbers(parameters, "short_factor")
        options["long_factors"] = _numbers(parameters, "long_factor")
    return RopeScaling(kind, **options)


def _yarn_options(parameters: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"beta_fast": parameters.get("beta_fast") or 32.0}
    options["beta_slow"] = parameters.get("beta_slow") or 1.0
    options["truncate"] = parameters.get("truncate", True)
    # DeepSeek's pair of factors, as one.
    scale, all_dim = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if parameters.get("attention_factor") is None and scale and all_dim and parameters["factor"] > 1:
        stretch = 0.1 * math.log(parameters["factor"])
        options["attention_factor"] = (stretch * scale + 1) / (stretch * all_dim + 1)
    return options


def _stretch(data: dict[str, Any], original: Any) -> float:
    context = data.get("max_position_embeddings")
    if not isinstance(context, int) or not isinstance(original, int) or original < 1:
        raise ValueError(
            f"rope scaling 'longrope' needs integers max_position_embeddings and {_ORIGINAL}, "
            f"got {context!r} and {original!r}"
        )
    return context / original


def _numbers(parameters: dict[str, Any], key: str) -> tuple[Any, ...]:
    value = parameters[key]
    if not isinstance(value, list):
        raise ValueError(f"rope scaling 'longrope': {key} must be a list of numbers, got {value!r}")
    return tuple(value)
