"""The loss curve of a run as a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TRAINING, _VALIDATION, _INK, _GRID = "#8fb3d9", "#c8442c", "#333333", "#e6e6e6"


def plot_losses(metrics: Sequence[dict[str, Any]], path: Path, *, title: str = "") -> Path:
    """Draws training and validation loss over steps into the PNG `path`, from the lines of a metrics file.

    Needs matplotlib (`pip install "pyllm[plot]"`): raises ImportError saying so when it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('a loss plot needs matplotlib: pip install "pyllm[plot]"') from error
    figure = Figure(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    _draw_training(axes, [(line["step"], line["loss"]) for line in metrics if line["loss"] is not None])
    _draw_validation(
        axes, [(line["step"], line["eval_loss"]) for line in metrics if line["eval_loss"] is not None]
    )
    axes.set_xlabel("step", color=_INK)
    axes.set_ylabel("loss (nats per token)", color=_INK)
    axes.set_title(title, loc="left", color=_INK, fontsize=11)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(colors=_INK, length=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=_INK)
    unfinished = path.with_name(f".{path.name}.unfinished")
    figure.savefig(unfinished, format="png")
    os.replace(unfinished, path)
    return path


def _draw_training(axes: Any, points: list[tuple[int, float]]) -> None:
    if not points:
        return
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color=_TRAINING, linewidth=0.8, alpha=0.5)
    axes.plot(steps, _smoothed(losses), color=_TRAINING, linewidth=2.0, label="training")


def _draw_validation(axes: Any, points: list[tuple[int, float]]) -> None:
    if not points:
        return
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color=_VALIDATION, linewidth=1.5, marker="o", markersize=4, label="validation")
    perplexity = math.exp(min(losses[-1], 700.0))
    axes.annotate(
        f"{losses[-1]:.2f} (perplexity {perplexity:,.0f})",
        (steps[-1], losses[-1]),
        xytext=(0, 9),
        textcoords="offset points",
        ha="right",
        color=_VALIDATION,
        fontsize=9,
    )


def _smoothed(losses: Sequence[float], memory: float = 0.8) -> list[float]:
    """Exponential moving average, corrected for its start as Adam's moments are."""
    smooth, average = [], 0.0
    for count, loss in enumerate(losses, start=1):
        average = memory * average + (1 - memory) * loss
        smooth.append(average / (1 - memory**count))
    return smooth
