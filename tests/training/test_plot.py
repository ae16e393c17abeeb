from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pyllm.training.plot import plot_losses


def lines(count: int) -> list[dict]:
    return [
        {"step": step, "loss": 9 / (step + 1) if step else None, "eval_loss": 9.0 if step % 4 == 0 else None}
        for step in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_draws_a_png_of_any_number_of_points(tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    path = plot_losses(lines(count), tmp_path / "loss.png", title="a run")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "pyllm\[plot\]"'):
        plot_losses(lines(3), tmp_path / "loss.png")
    assert list(tmp_path.iterdir()) == []
