"""The loading bar: on a terminal, after a while, on stderr only."""

from __future__ import annotations

import sys

import pytest

from pyllm.checkpoints import progress


def _run(monkeypatch: pytest.MonkeyPatch, terminal: bool, patience: float) -> list[str]:
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    return list(progress.track([(3, "a"), (5, "b")], 8, "Loading it"))


def test_silent_where_it_should_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, terminal=False, patience=0.0) == ["a", "b"]
    assert _run(monkeypatch, terminal=True, patience=100.0) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_shown_on_a_slow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert _run(monkeypatch, terminal=True, patience=-1.0) == ["a", "b"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "Loading it" in err


def test_the_bar_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(progress, "PATIENCE_SECONDS", -1.0)
        items = progress.track(((1, int(text)) for text in ("1", "x")), 2, "Loading it")
        assert next(items) == 1
        with pytest.raises(ValueError, match="invalid literal"):
            next(items)
