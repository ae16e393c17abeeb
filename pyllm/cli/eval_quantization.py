"""`pyllm eval quantization`: one model in many formats."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pyllm.evaluation.divergence import BaseRun, OnProgress
    from pyllm.models import Transformer

_MEASURES = {
    "quality": ("mean_kl",),
    "speed": ("prefill", "decode"),
    "both": ("mean_kl", "prefill", "decode"),
}
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
    json: Annotated[
        Path | None,
        typer.Option(
            help="File of results: each row is added once it is measured, and then not measured again."
        ),
    ] = None,
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
    from pyllm.evaluation.format_table import markdown, update_page

    if measure not in _MEASURES:
        raise ValueError(f"--measure must be one of {', '.join(sorted(_MEASURES))}, got {measure!r}")
    if max_tokens < 2:
        raise ValueError(f"--max-tokens must be at least 2, got {max_tokens}")
    with tempfile.TemporaryDirectory() if work is None else nullcontext(str(work)) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        results = json or Path(folder) / "results.json"
        section = _measure(model, data, formats, max_tokens, context, seed, measure, Path(folder), results)
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
    path: Path,
) -> dict[str, Any]:
    """Measures what is not in the file of results at `path` yet; what that knows of the model then."""
    import pyllm
    from pyllm.cli.eval import read_text
    from pyllm.cli.progress import progress_bar
    from pyllm.evaluation.divergence import run_base
    from pyllm.evaluation.format_table import Results
    from pyllm.evaluation.formats import DEFAULT_FORMATS, windows_of
    from pyllm.quantization import rotated

    text = read_text(data)
    stored = pyllm.load(model)
    if stored.tokenizer is None:
        raise ValueError(f"--model: {str(model)!r} has no tokenizer")
    ids = stored.tokenizer.encode(text, disallowed_special=())[:max_tokens]
    windows = windows_of(ids, context, stored.tokenizer.encode("", add_special_tokens=True)[:1])
    chosen = [] if formats == ["none"] else formats or list(DEFAULT_FORMATS)
    results = Results(path, model.stem, _conditions(data, windows, context, seed, measure))

    @functools.cache
    def plain() -> Transformer:
        return rotated(pyllm.load(model, dtype="float32").network, seed)

    with progress_bar() as show:

        @functools.cache
        def base() -> BaseRun:
            return run_base(plain(), windows, show)

        for name, make in _candidates(plain, stored.network, model, chosen, folder):
            if results.holds(name, _MEASURES[measure]):
                continue
            made = make()
            if made is not None:
                row = _row(base, made[0], windows[0], measure, show)
                results.add(name, {"bytes": made[1]} | row)
            del made  # before the next is made
    return results.section


def _candidates(
    plain: Callable[[], Transformer], stored: Transformer, model: Path, formats: Iterable[str], folder: Path
) -> Iterable[tuple[str, Callable[[], tuple[Transformer, int] | None]]]:
    """Row by row its name, and what makes the network and its bytes; that gives None for a format that cannot hold
    the network's shapes."""
    from pyllm.evaluation.formats import in_format

    def base() -> tuple[Transformer, int]:
        network = plain()
        return network, 4 * sum(tensor.numel() for tensor in network.state_dict().values())

    def quantized(format: str) -> tuple[Transformer, int] | None:
        try:
            return in_format(plain, format, folder)
        except ValueError as error:
            if "format must be" in str(error):
                raise
            return None

    yield _BASE, base
    yield _STORED, lambda: (stored, _stored_bytes(model))
    for format in formats:
        yield format, functools.partial(quantized, format)


def _row(
    base: Callable[[], BaseRun],
    network: Transformer,
    prompt: list[int],
    measure: str,
    show: OnProgress,
) -> dict[str, Any]:
    from pyllm.evaluation.divergence import divergence
    from pyllm.evaluation.formats import speeds

    row: dict[str, Any] = {} if measure == "speed" else dataclasses.asdict(divergence(base(), network, show))
    if measure != "quality":
        row["prefill"], row["decode"] = speeds(network, prompt)
    return row


def _stored_bytes(model: Path) -> int:
    return (
        model.stat().st_size
        if model.is_file()
        else sum(f.stat().st_size for f in model.glob("*.safetensors"))
    )


def _conditions(
    data: Path, windows: list[list[int]], context: int, seed: int, measure: str
) -> dict[str, str]:
    """What was measured how, in words."""
    import pyllm
    from pyllm.evaluation.formats import DECODED

    conditions = {}
    if measure != "speed":
        predicted = sum(len(window) - 1 for window in windows)
        conditions["text"] = f"{data.name}, {predicted} predicted tokens in windows of {context}, seed {seed}"
    if measure != "quality":
        facts = pyllm.info()
        conditions["speed"] = (
            f"level {facts.active_isa}, {facts.threads} threads, "
            f"a prompt of {len(windows[0])} tokens, then {DECODED} one by one"
        )
    return conditions
