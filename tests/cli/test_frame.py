"""What all commands do alike: help, the frozen list, wrong input, interruption."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

import pyllm
from pyllm.cli import _repeat_list_options, application, main


def commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of every command below `group`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


COMMANDS = dict(commands(typer.main.get_command(application())))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_ends_with_an_example(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() == "Example:")
    assert f"pyllm {' '.join(words)}" in lines[start + 1]


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Usage: pyllm" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--nope"], ["nope"], ["info", "--nope"], ["info", "stray"]], ids=" ".join)
def test_wrong_words_are_one_line_and_exit_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("pyllm: error: ")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("seq_len: expected\n  at least 1, got 0"), 2, "seq_len: expected at least 1, got 0"),
        (
            FileNotFoundError(2, "No such file or directory", "a.gguf"),
            2,
            "No such file or directory: 'a.gguf'",
        ),
        (KeyboardInterrupt(), 130, ""),
        (KeyError("x"), 1, "internal error: KeyError: 'x'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_never_show_a_traceback(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("pyllm.information.info", fail)
    assert main(["info"]) == code
    shown = capsys.readouterr().err
    assert line in shown
    assert shown.count("\n") == (1 if line else 0)
    if isinstance(error, ValueError):
        monkeypatch.setenv("PYLLM_DEBUG", "1")
        with pytest.raises(ValueError, match="seq_len"):
            main(["info"])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--data a b --out o", "--data a --data b --out o"),
        ("--data a --data b", "--data a --data b"),
        ("--steps 3 --data a b c", "--steps 3 --data a --data b --data c"),
        ("--data a --resume b", "--data a --resume b"),
        ("--data --out o", "--data --out o"),
    ],
)
def test_list_options_take_several_values(args: str, expected: str) -> None:
    assert _repeat_list_options(args.split(), {"--data"}) == expected.split()


def test_help_is_quick_to_import() -> None:
    code = (
        "import sys, pyllm.cli; code = pyllm.cli.main(['--help']); "
        "heavy = {'torch', 'numpy', 'rich', 'matplotlib'} & set(sys.modules); sys.exit(f'{heavy}' if heavy else code)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_module_is_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "pyllm", "--version"], check=True, capture_output=True)
    assert run.stdout.decode() == f"pyllm {pyllm.__version__}\n"
    assert run.stderr == b""


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pyllm"] == pyllm.__version__
