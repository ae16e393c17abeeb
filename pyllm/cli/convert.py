"""`pyllm convert`: a model from one file format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_GGUF_FORMATS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def convert(
    model: Annotated[Path, typer.Option(help="A .gguf file, or a folder, quantized or not.")],
    out: Annotated[Path, typer.Option(help="A .gguf file or a folder to write.")],
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Write a model as a folder (config.json, model.safetensors, tokenizer.json) or as a .gguf file.

    Quantized weights are dequantized: `pyllm quantize` writes others.

    Example:
        pyllm convert --model SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2 --dtype bfloat16
        pyllm convert --model smollm2 --out smollm2.gguf --dtype float16
    """
    import pyllm
    from pyllm.cli.progress import progress_bar
    from pyllm.quantization import save_gguf

    if dtype not in _GGUF_FORMATS:
        raise ValueError(f"--dtype must be one of {', '.join(_GGUF_FORMATS)}, got {dtype!r}")
    if out.exists() and out.samefile(model):
        raise ValueError("--out is the file of --model")
    if out.suffix != ".gguf":
        pyllm.load(model, dtype=dtype).save(out)
        return
    loaded = pyllm.load(model, dtype="float32")
    with progress_bar() as show:
        save_gguf(
            loaded.network,
            out,
            _GGUF_FORMATS[dtype],
            tokenizer=loaded.tokenizer,
            on_tensor=lambda _, done, total: show("writing", done, total),
        )
