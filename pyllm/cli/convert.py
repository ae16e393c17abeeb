"""`pyllm convert`: a model as a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    model: Annotated[Path, typer.Option(help="A .gguf file, or a folder, quantized or not.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Write a model as a folder with config.json, model.safetensors, tokenizer.json, its weights dequantized.

    Example:
        pyllm convert --model SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2 --dtype bfloat16
    """
    import pyllm

    if out.suffix == ".gguf":
        raise ValueError(f"--out must be a folder, got {str(out)!r}; pyllm quantize writes GGUF from GGUF")
    pyllm.load(model, dtype=dtype).save(out)
