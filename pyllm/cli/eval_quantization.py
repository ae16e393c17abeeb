"""`pyllm eval quantization`: one model in many formats."""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pyllm.evaluation.divergence import BaseRun, OnProgress
    from pyllm.models import Transformer

_MEASURES = ("both", "quality", "speed")
_BASE, _STORED = "float32 (base)", "as stored"


def quantization(
    model: Annotated[Path, typer.Option(help="A .gguf file, or a folder with config.json.")],
    data: Annotated[Path, typer.Option(help="Text file; .jsonl and .gz are understood.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(help="Formats, by default all usual ones; 'none' for base and stored only."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the text that are used.")] = 4096,
    context: Annotated[int, typer.Option(help="Window in tokens; the prompt of the speed test too.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the rotation.")] = 0,
    measure: Annotated[str, typer.Option(help="quality, speed or both.")] = "both",
    work: Annotated[
        Path | None, typer.Option(help="Folder where quantized files stay and are taken from.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File of results, to which these are added.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Markdown page whose table of this model is rewritten.")
    ] = None,
) -> None:
    """Measure what quantizing a model costs: perplexity, divergence from the base, size, speed.

    The base is the model in float32, rotated: the same function with weights that lie on no grid, even if those in
    the file do. Windows follow one another, each behind the tokenizer's first token if it adds one; all their tokens
    but the first are predicted.

    Example:
        pyllm eval quantization --model SmolLM2-135M-Instruct.Q4_1.gguf --data wiki.txt --formats q8_0 q4_k q4_0
    """
    from pyllm.evaluation.format_table import markdown, merged, update_page

    if measure not in _MEASURES:
        raise ValueError(f"--measure must be one of {', '.join(_MEASURES)}, got {measure!r}")
    if max_tokens < 2:
        raise ValueError(f"--max-tokens must be at least 2, got {max_tokens}")
    with tempfile.TemporaryDirectory() if work is None else nullcontext(str(work)) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        rows, facts = _measure(model, data, formats, max_tokens, context, seed, measure, Path(folder))
        results = json or Path(folder) / "results.json"
        section = merged(results, model.stem, rows, facts)[model.stem]
    if out is not None:
        update_page(out, model.stem, section)
    print(markdown(section))


def _measure(
    model: Path,
    data: Path,
    formats: list[str] | None,
    max_tokens: int,
    context: int,
    seed: int,
    measure: str,
    folder: Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows by format, and what was measured how."""
    import pyllm
    from pyllm.cli.eval import read_text
    from pyllm.cli.progress import progress_bar
    from pyllm.evaluation.divergence import run_base
    from pyllm.evaluation.formats import DEFAULT_FORMATS, each_format, windows_of
    from pyllm.quantization import rotated

    text = read_text(data)
    loaded = pyllm.load(model, dtype="float32")
    if loaded.tokenizer is None:
        raise ValueError(f"--model: {str(model)!r} has no tokenizer")
    ids = loaded.tokenizer.encode(text, disallowed_special=())[:max_tokens]
    prefix = loaded.tokenizer.encode("", add_special_tokens=True)[:1]
    windows = windows_of(ids, context, prefix)
    network = rotated(loaded.network, seed)
    del loaded
    chosen = [] if formats == ["none"] else formats or list(DEFAULT_FORMATS)
    rows: dict[str, Any] = {}
    with progress_bar() as show:
        base = None if measure == "speed" else run_base(network, windows, show)

        def add(name: str, candidate: Transformer, size: int) -> None:
            rows[name] = {"bytes": size} | _row(base, candidate, windows[0], measure, show)

        plain = 4 * sum(tensor.numel() for tensor in network.state_dict().values())
        add(_BASE, network, plain)
        add(_STORED, pyllm.load(model).network, _stored_bytes(model))
        for name, candidate, size in each_format(network, chosen, folder, lambda _: None):
            add(name, candidate, size)
    facts: dict[str, Any] = {}
    if base is not None:
        predicted = sum(len(window) - 1 for window in windows)
        facts["text"] = f"{data.name}, {predicted} predicted tokens in windows of {context}, seed {seed}"
    if measure != "quality":
        facts["speed"] = _machine()
    return rows, facts


def _row(
    base: BaseRun | None, network: Transformer, prompt: list[int], measure: str, show: OnProgress
) -> dict[str, Any]:
    from pyllm.evaluation.divergence import divergence
    from pyllm.evaluation.formats import speeds

    row: dict[str, Any] = {} if base is None else dataclasses.asdict(divergence(base, network, show))
    if measure != "quality":
        row["prefill"], row["decode"] = speeds(network, prompt)
    return row


def _stored_bytes(model: Path) -> int:
    return (
        model.stat().st_size
        if model.is_file()
        else sum(f.stat().st_size for f in model.glob("*.safetensors"))
    )


def _machine() -> str:
    import pyllm

    facts = pyllm.info()
    return f"level {facts.active_isa}, {facts.threads} threads"
