from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from pyllm.training.report import MetricsFile, StepReport, progress_bar, read_metrics


def report(step: int, **fields: float) -> StepReport:
    return StepReport(step, 10, loss=2.0 / (step + 1), tokens=8, tokens_per_second=1234.5, **fields)


def test_metrics_are_json_lines_every_few_steps_and_at_evaluations(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, every=4)
    for step in range(1, 11):
        metrics.on_step(report(step, **({"eval_loss": 1.0} if step == 6 else {})))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 6, 8]
    assert lines[1]["eval_loss"] == 1.0
    assert lines[1]["loss"] == pytest.approx(2.0 / 7)


def test_a_resumed_run_continues_the_file_at_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, every=1)
    for step in range(1, 8):
        metrics.on_step(report(step))
    with path.open("a") as file:
        file.write('{"step": 8, "lo')
    resumed = MetricsFile(path, every=1, resumed_step=5)
    resumed.on_step(report(6))
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5, 6]
    MetricsFile(path, every=1)
    assert path.read_text() == ""


def test_progress_is_silent_when_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("training") as on_step:
        on_step(report(1))
    assert capsys.readouterr() == ("", "")


def test_progress_shows_loss_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("training") as on_step:
        on_step(report(3, eval_loss=1.75))
        on_step(report(4))
    shown = terminal.getvalue()
    for part in ("training", "4/10", "loss 0.400", "(validation 1.750)", "1,234 tokens/s", "left"):
        assert part in shown
