"""`pyllm chat`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.checkpoints.atomic import atomic_path
from pyllm.cli.terminal import hidden_typing, note, note_speed, show, write

if TYPE_CHECKING:
    from pyllm.generation import Engine, GenerationConfig

_HELP = (
    "/regenerate answers anew, /save FILE keeps the conversation as JSON, /reset forgets it, /quit or Ctrl-D leaves, "
    "Ctrl-C stops an answer."
)
_Messages = list[dict[str, str]]


def chat(
    model: Annotated[
        Path, typer.Option(help="A .gguf file, or a folder with config.json and *.safetensors.")
    ],
    system: Annotated[str | None, typer.Option(help="System prompt that opens the conversation.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of one answer.")] = 1024,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above 0 samples.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens that make up this share.")
    ] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes used tokens less likely.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answers.")] = None,
    dtype: Annotated[str, typer.Option(help="Weights and arithmetic: auto, float32, bfloat16.")] = "auto",
) -> None:
    """Talk to a model; it remembers the conversation.

    /regenerate answers the last message anew, /save FILE keeps the conversation as JSON, /reset forgets it, /quit or
    Ctrl-D leaves, Ctrl-C stops an answer. Piped input works too: each line is a message, each answer goes to standard
    output.

    Example:
        pyllm chat --model SmolLM2-135M-Instruct.Q4_1.gguf --system "Answer in one sentence."
    """
    import pyllm

    config = pyllm.GenerationConfig(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    loaded = pyllm.load(model, dtype=dtype)
    if loaded.tokenizer is None or loaded.tokenizer.chat_template is None:
        raise ValueError(
            f"--model: {str(model)!r} has no chat template; continue texts with `pyllm generate`"
        )
    opening: _Messages = [] if system is None else [{"role": "system", "content": system}]
    note(f"{model.name}: {_HELP}")
    # One engine for the whole conversation: what was said before stays stored.
    _converse(pyllm.Engine(loaded), opening, config)


def _converse(engine: Engine, opening: _Messages, config: GenerationConfig) -> None:
    messages = list(opening)
    while (line := _read_message()) is not None:
        if line == "/quit":
            return
        if line == "/reset":
            messages = list(opening)
            note("The conversation starts afresh.")
        elif line == "/regenerate":
            config = _regenerate(engine, messages, config)
        elif line == "/save" or line.startswith("/save "):
            _save(line.removeprefix("/save").strip(), messages)
        elif line.startswith("/") and " " not in line:
            note(f"There is no command {line}. {_HELP}")
        elif line:
            messages.append({"role": "user", "content": line})
            _answer(engine, messages, config)


def _regenerate(engine: Engine, messages: _Messages, config: GenerationConfig) -> GenerationConfig:
    """Answers the last message once more; a seed moves on by one, so that what is drawn differs."""
    if not messages or messages[-1]["role"] != "assistant":
        note("There is no answer to give anew.")
        return config
    before = list(messages)
    messages.pop()
    if config.seed is not None:
        config = dataclasses.replace(config, seed=(config.seed + 1) % 2**63)
    _answer(engine, messages, config)
    if len(messages) < len(before):
        messages[:] = before  # no answer came: the old one stays
    return config


def _save(name: str, messages: _Messages) -> None:
    """Writes the conversation as JSON, a list of messages; what goes wrong is said and the conversation goes on."""
    if not name:
        note("Name a file: /save conversation.json")
        return
    try:
        with atomic_path(Path(name)) as path:
            path.write_text(json.dumps(messages, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = (
            getattr(error, "strerror", None) or error
        )  # without the name of the file that was to be renamed
        print(f"pyllm: cannot save {name!r}: {reason}", file=sys.stderr)
    else:
        note(f"Saved {len(messages)} messages to {name}.")


def _answer(engine: Engine, messages: _Messages, config: GenerationConfig) -> None:
    """Appends the model's answer to the conversation; one that cannot be given takes its question back."""
    try:
        stream = engine.submit(messages, config)
    except ValueError as error:
        print(f"pyllm: {error} (/reset starts the conversation afresh)", file=sys.stderr)
        messages.pop()
        return
    try:
        with hidden_typing():
            timings = show(stream)
    except KeyboardInterrupt:
        stream.cancel()
        write("\n")
        note("Stopped.")
        if not stream.completion.text:
            messages.pop()
            return
    else:
        write("\n")
        note_speed(stream, timings)
    messages.append({"role": "assistant", "content": stream.completion.text})


def _read_message() -> str | None:
    """The next line without blanks around it, None at the end of input."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip() if line else None
    import readline  # noqa: F401 - gives input() a history and arrow keys

    try:
        return input(">>> ").strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        write("\n")
        note(_HELP)
        return ""
