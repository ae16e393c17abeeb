"""One model in many quantized formats: predictions beside the base, size, speed."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pyllm.checkpoints import load_checkpoint
from pyllm.generation import Engine, GenerationConfig
from pyllm.models import Transformer
from pyllm.nn.quantized import QuantizedLinear
from pyllm.quantization import GGUF_FORMATS, quantize_network, save_gguf

DEFAULT_FORMATS = (
    *("q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "mxfp4"),
    *("q3_k", "q2_k", "int8", "int4_g32", "int4_g64", "int4_g128", "nf4", "fp8_e4m3"),
)
DECODED = 32


def in_format(plain: Callable[[], Transformer], format: str, folder: Path) -> tuple[Transformer, int]:
    """A network in a format, and its bytes.

    A GGUF type is written to `folder` as a file, embedding and head in Q8_0, and loaded, so that it is what users load;
    a file that is there already is taken. The bytes are those of the file. With other formats, of linear layers only,
    embedding and head stay as they are, shared with the plain network; the bytes are those of the weights in memory.

    Args:
        plain: gives the network in float32; called only where it is needed.

    Raises:
        ValueError: an unknown format, or weights that it cannot hold.
    """
    if format.upper() in GGUF_FORMATS:
        path = folder / f"{format.lower()}.gguf"
        if not path.exists():
            save_gguf(plain(), path, format)
        return load_checkpoint(path).network, path.stat().st_size
    network = plain()
    quantized = copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})
    quantize_network(quantized, format)
    held = sum(module.weight.nbytes for module in quantized.modules() if isinstance(module, QuantizedLinear))
    return quantized, held + sum(tensor.nbytes for tensor in quantized.state_dict().values())


def windows_of(ids: Sequence[int], context: int, prefix: Sequence[int]) -> list[list[int]]:
    """A text in windows of `context` tokens, one after the other, each behind `prefix` (a model's first token)."""
    size = context - len(prefix)
    if size < 1:
        raise ValueError(f"context must exceed the {len(prefix)} tokens before every text, got {context}")
    windows = [[*prefix, *ids[start : start + size]] for start in range(0, len(ids), size)]
    return [window for window in windows if len(window) > 1]


def speeds(network: Transformer, prompt: Sequence[int], repeats: int = 3) -> tuple[float, float]:
    """Tokens per second: reading `prompt` at once, and making `DECODED` more one by one; medians."""
    reading, making = [], []
    config = GenerationConfig(max_new_tokens=1 + DECODED, ignore_eos=True)
    for _ in range(repeats):
        engine = Engine(_Untokenized(network))
        request = engine.submit(list(prompt), config)
        start = time.perf_counter()
        while request.stored < len(prompt):
            engine.step()
        middle = time.perf_counter()
        while not request.finished:
            engine.step()
        reading.append(len(prompt) / (middle - start))
        making.append(DECODED / (time.perf_counter() - middle))
    return statistics.median(reading), statistics.median(making)


class _Untokenized(NamedTuple):
    """What an engine takes."""

    network: Transformer
    tokenizer: None = None
    eos_token_ids: tuple[int, ...] = ()
