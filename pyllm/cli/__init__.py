"""The `pyllm` command: one function per subcommand, and what all of them do alike when something goes wrong.

A command's module imports only typer and the standard library at its top and everything heavy inside its function, so
that `pyllm --help` answers at once. Its docstring is its help and ends with an `Example:` block.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import pyllm
from pyllm.cli import eval as evaluation
from pyllm.cli import tokenizer
from pyllm.cli.bench import bench
from pyllm.cli.chat import chat
from pyllm.cli.convert import convert
from pyllm.cli.demo import demo
from pyllm.cli.eval_quantization import quantization
from pyllm.cli.generate import generate
from pyllm.cli.info import info
from pyllm.cli.pretrain import pretrain
from pyllm.cli.quantize import quantize

_INPUT_ERRORS = (ValueError, TypeError, OSError, RuntimeError, ImportError, FloatingPointError, MemoryError)


class Command(TyperCommand):
    """A command whose list options take several values at once: `--data a b` is `--data a --data b`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        return super().parse_args(ctx, _repeat_list_options(args, lists))


def _repeat_list_options(args: Sequence[str], lists: set[str]) -> list[str]:
    spelled_out: list[str] = []
    current, values = None, 0
    for arg in args:
        if arg in lists:
            current, values = arg, 0
        elif arg.startswith("-") and arg != "-":
            current = None
        elif current is not None:
            if values:
                spelled_out.append(current)
            values += 1
        spelled_out.append(arg)
    return spelled_out


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"pyllm {pyllm.__version__}")
        raise typer.Exit


def _group(help: str) -> typer.Typer:
    return typer.Typer(
        help=help,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"max_content_width": 110},
    )


def _add(group: typer.Typer, name: str, function: Callable[..., None]) -> None:
    text = inspect.cleandoc(function.__doc__ or "").replace(
        "\nExample", "\n\b\nExample"
    )  # \b: keep the block's lines
    group.command(name, cls=Command, help=text)(function)


def application() -> typer.Typer:
    """All commands, as a typer application."""
    app = _group("Train, run and measure language models on the machine at hand.")

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
        ] = False,
    ) -> None:
        pass

    _add(app, "info", info)
    _add(app, "demo", demo)
    _add(app, "bench", bench)
    tokenizers = _group("Train and use tokenizers.")
    _add(tokenizers, "train", tokenizer.train)
    _add(tokenizers, "compare", tokenizer.compare)
    _add(tokenizers, "encode", tokenizer.encode)
    app.add_typer(tokenizers, name="tokenizer")
    _add(app, "pretrain", pretrain)
    _add(app, "generate", generate)
    _add(app, "chat", chat)
    _add(app, "quantize", quantize)
    _add(app, "convert", convert)
    measures = _group("Measure models.")
    _add(measures, "perplexity", evaluation.perplexity)
    _add(measures, "quantization", quantization)
    app.add_typer(measures, name="eval")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 after wrong input (one line on stderr), 130 after Ctrl-C.

    `arguments` are the words after `pyllm`. By default they are those of this process, which is then ours and gets the
    tuned allocator. With PYLLM_DEBUG=1 an error keeps its traceback.
    """
    if arguments is None:
        pyllm.tune_allocator()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr] # any text on any terminal
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = typer.main.get_command(application()).main(words, prog_name="pyllm", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if os.environ.get("PYLLM_DEBUG") == "1":
            raise
        return _complain(error)
    return code if isinstance(code, int) else 0


def _complain(error: Exception) -> int:
    """Prints one line that says what was wrong; returns the exit code."""
    if isinstance(error, BrokenPipeError):  # the reader of our output left: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    is_usage = hasattr(error, "format_message")
    if is_usage or isinstance(error, _INPUT_ERRORS):
        print(f"pyllm: error: {_one_line(error)}", file=sys.stderr)
        return 2
    kind = type(error).__name__
    print(f"pyllm: internal error: {kind}: {_one_line(error)} (PYLLM_DEBUG=1 shows where)", file=sys.stderr)
    return 1


def _one_line(error: Exception) -> str:
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        message = error.format_message().rstrip(".") + hint
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.strerror}: {str(error.filename)!r}"
    else:
        message = str(error) or type(error).__name__
    return " ".join(message.split())
