"""Commands and options are a contract that users' scripts depend on: extend the list, do not change it."""

from __future__ import annotations

from tests.cli.test_frame import COMMANDS

CONTRACT = {
    "info": {"--json"},
    "demo": {"--data", "--out", "--model", "--seconds"},
    "quantize": {"--model", "--method", "--format", "--bits", "--out"},
    "convert": {"--model", "--out", "--dtype"},
    "bench": {"op", "--full", "--runs", "--isa", "--texts", "--only", "--json"},
    "tokenizer train": {
        "--data",
        "--vocab-size",
        "--out",
        "--pattern",
        "--special-token",
        "--tie-break",
        "--max-memory",
    },
    "tokenizer compare": {"--tokenizer", "--data", "--json"},
    "tokenizer encode": {
        "--tokenizer",
        "--text",
        "--data",
        "--add-special-tokens",
        "--allow-special",
        "--json",
    },
    "pretrain": {
        "--data",
        "--out",
        "--tokenizer",
        "--preset",
        "--config",
        "--steps",
        "--max-seconds",
        "--batch-size",
        "--seq-len",
        "--seed",
        "--save-every",
        "--resume",
    },
    "eval quantization": {
        "--model",
        "--data",
        "--formats",
        "--max-tokens",
        "--context",
        "--seed",
        "--measure",
        "--work",
        "--json",
        "--out",
    },
    "generate": {
        "--model",
        "--prompt",
        "--chat",
        "--max-new-tokens",
        "--temperature",
        "--top-k",
        "--top-p",
        "--min-p",
        "--repetition-penalty",
        "--stop",
        "--seed",
        "--dtype",
        "--json",
    },
    "chat": {
        "--model",
        "--system",
        "--max-new-tokens",
        "--temperature",
        "--top-p",
        "--repetition-penalty",
        "--seed",
        "--dtype",
    },
    "eval perplexity": {"--model", "--data", "--context", "--stride", "--max-tokens", "--dtype", "--json"},
}


def test_commands_and_options() -> None:
    found = {
        " ".join(words): {name for param in command.params for name in param.opts} - {"--help"}
        for words, command in COMMANDS.items()
    }
    assert found == CONTRACT
