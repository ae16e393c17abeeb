import os
import sys

import pytest

from pyllm.cli.terminal import hidden_typing

termios = pytest.importorskip("termios")


def test_typing_is_hidden_while_text_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard, terminal = os.openpty()
    with os.fdopen(terminal) as stdin, os.fdopen(keyboard):
        monkeypatch.setattr(sys, "stdin", stdin)
        before = termios.tcgetattr(stdin)
        assert before[3] & termios.ECHO
        with hidden_typing():
            assert termios.tcgetattr(stdin)[3] == before[3] & ~termios.ECHO
        assert termios.tcgetattr(stdin) == before
