"""`pyllm quantize`: a model's weights in fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_GGUF = {2: "q2_k", 3: "q3_k", 4: "q4_k", 5: "q5_k", 6: "q6_k", 8: "q8_0", 16: "f16"}
_FOLDER = {4: "int4_g32", 8: "int8"}


def quantize(
    model: Annotated[
        Path, typer.Option(help="A .gguf file, or a folder with config.json and *.safetensors.")
    ],
    out: Annotated[Path, typer.Option(help="A .gguf file, or a folder.")],
    method: Annotated[str, typer.Option(help="rtn: round to the nearest, without data.")] = "rtn",
    bits: Annotated[int | None, typer.Option(help="Chooses a format where none is named.")] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="GGUF: q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs mxfp4 f16 bf16 f32. "
            "Folder: int8 int4 int4_g128 (g32, g64, g128; _zp: with zero points) nf4."
        ),
    ] = None,
) -> None:
    """Write a model with its linear layers in fewer bits.

    A folder gets the layout of compressed-tensors (integers) or bitsandbytes (nf4).

    Example:
        pyllm quantize --model SmolLM2-135M-Instruct.Q8_0.gguf --method rtn --bits 4 --out smollm2-q4_k.gguf
    """
    import pyllm
    from pyllm.cli.progress import progress_bar
    from pyllm.quantization import quantize_gguf_file, save_gguf, save_quantized

    if method != "rtn":
        raise ValueError(f"--method must be rtn, got {method!r}")
    to_gguf = out.suffix == ".gguf"
    chosen = format or _format_of(bits, _GGUF if to_gguf else _FOLDER)
    if not to_gguf:
        loaded = pyllm.load(model, dtype="float32")
        save_quantized(loaded.network, out, chosen)
        loaded.save_tokenizer(out)
        return
    if out.exists() and out.samefile(model):
        raise ValueError("--out is the file of --model")
    with progress_bar() as show:

        def hear(_: str, done: int, total: int) -> None:
            show("quantizing", done, total)

        if model.suffix == ".gguf":
            counts = quantize_gguf_file(model, out, chosen, on_tensor=hear)
        else:
            loaded = pyllm.load(model, dtype="float32")
            counts = save_gguf(loaded.network, out, chosen, tokenizer=loaded.tokenizer, on_tensor=hear)
    print(", ".join(f"{count} tensors {kind}" for kind, count in sorted(counts.items())))


def _format_of(bits: int | None, known: dict[int, str]) -> str:
    if bits not in known:
        raise ValueError(f"--bits must be one of {list(known)} here, or name a --format, got {bits}")
    return known[bits]
