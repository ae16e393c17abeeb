"""Draws docs/assets/demo.svg: `python docs/assets/make_demo.py`, the picture of a real run of `pyllm demo`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

import pyllm
from pyllm.demo import run_demo


def main() -> None:
    pyllm.tune_allocator()
    picture = Path(__file__).resolve().with_name("demo.svg")
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as unseen:
        os.chdir(folder)
        os.environ["PYLLM_CACHE"] = "cache"  # short paths in the picture
        console = Console(record=True, width=130, file=unseen, force_terminal=True, highlight=False)
        run_demo(console=console)
    console.save_svg(str(picture), title="pyllm demo", theme=MONOKAI)


if __name__ == "__main__":
    main()
