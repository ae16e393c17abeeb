"""LLM.int8(): 8-bit products, but for the few columns of activations that hold outliers."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm.ops.linear import linear
from pyllm.ops.quantized_linear import quantized_linear
from pyllm.ops.quantized_tensor import QuantizedTensor


def llm_int8_linear(
    x: Tensor, weight: QuantizedTensor, bias: Tensor | None = None, *, threshold: float = 6.0
) -> Tensor:
    """y = x @ weight.T + bias: columns of x with an outlier are multiplied as they are, all others as signed bytes.

    Source: Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", 2022. A column has an
    outlier where any row's magnitude reaches the threshold, so a row's result depends on the others. The bytes of a row
    share a scale, max |x| / 127 over the columns without outliers. Both parts are added in float32 and rounded once.

    Args:
        x: (..., in), float32, bfloat16 or float16.
        weight: (out, in), a format of 8-bit integers with one scale per output: "int8", with or without zero points.
        bias: (out,), dtype of x.
        threshold: above 0; infinity leaves W8A8.

    Returns:
        (..., out), dtype of x. Gradients reach x and bias as if nothing had been rounded.

    Raises:
        ValueError: another format, a threshold that is not positive, shapes that do not fit. TypeError: dtypes do not
            fit.
    """
    if not isinstance(weight, QuantizedTensor) or weight.format.removesuffix("_f32") not in (
        "int8",
        "int8_zp",
    ):
        found = weight.format if isinstance(weight, QuantizedTensor) else type(weight).__name__
        raise ValueError(
            f"llm_int8_linear: weight must have 8-bit integers and one scale per output, got {found}"
        )
    if not threshold > 0:
        raise ValueError(f"llm_int8_linear: threshold must be positive, got {threshold}")
    if bias is not None and bias.dtype != x.dtype:
        raise TypeError(f"llm_int8_linear: bias must have the dtype of x, {x.dtype}, got {bias.dtype}")
    wide_bias = None if bias is None else bias.float()
    columns = _outlier_columns(x, threshold)
    inner = x.float().index_fill(-1, columns, 0.0)
    y = quantized_linear(inner, weight, wide_bias, activation="int8")
    if columns.numel():
        y = y + _product_of_columns(x, weight, columns)
    return y.to(x.dtype)


def _outlier_columns(x: Tensor, threshold: float) -> Tensor:
    rows = x.detach().reshape(-1, x.shape[-1])
    return (rows.abs() >= threshold).any(0).nonzero().flatten()


def _product_of_columns(x: Tensor, weight: QuantizedTensor, columns: Tensor) -> Tensor:
    """x[..., columns] @ weight[:, columns].T in float32; the columns come out of a product with unit vectors."""
    chosen = x.float().index_select(-1, columns)
    units = torch.zeros(len(columns), x.shape[-1]).index_put_(
        (torch.arange(len(columns)), columns), torch.tensor(1.0)
    )
    return linear(chosen, quantized_linear(units, weight).t().contiguous())
