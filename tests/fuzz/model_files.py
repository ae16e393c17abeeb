"""Model files, damaged: a GGUF file, and a folder of config.json and safetensors.

Each loads and computes, or is refused by an error that names it.
"""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from pyllm.checkpoints.gguf import BLOCK_TYPES
from tests.checkpoints.gguf_bytes import U32
from tests.fuzz.gguf_parts import F32, Key, Parts, Stored, mutate_parts
from tests.fuzz.harness import Case, refusal_names
from tests.fuzz.mutations import mutate_bytes, mutate_json
from tests.fuzz.tokenizer_files import byte_level_document, gguf_vocabulary

HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY, LAYERS = 32, 256, 2, 1, 320, 2
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}


def load_and_compute(path: Path) -> None:
    """Loads the model and computes the logits of three tokens."""
    import torch

    import pyllm

    with refusal_names(str(path)):
        model = pyllm.load(path)
        with torch.inference_mode():
            assert model(torch.tensor([[0, 1, 2]])).shape[1] == 3


def _shapes() -> dict[str, tuple[int, int]]:
    """GGUF names of the matrices of a layer, with rows and columns."""
    width = HIDDEN // HEADS
    return {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (KV_HEADS * width, HIDDEN),
        "attn_v": (KV_HEADS * width, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }


def _matrix(rng: random.Random, name: str, rows: int, columns: int, kind: int) -> Stored:
    block = BLOCK_TYPES[kind]
    size = rows * columns // block.elements * block.bytes
    data = np.full(rows * columns, 0.1, "<f4").tobytes() if kind == 0 else rng.randbytes(size)
    return Stored(name.encode(), (columns, rows), kind, data)


def _norm(name: str) -> Stored:
    return Stored(name.encode(), (HIDDEN,), 0, np.ones(HIDDEN, "<f4").tobytes())


def gguf_model(rng: random.Random) -> Parts:
    """A sound model whose weights are blocks of random types and bytes."""
    numbers = {
        "block_count": LAYERS,
        "context_length": 128,
        "embedding_length": HIDDEN,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
    }
    keys = [Key(f"llama.{name}".encode(), U32, (number,)) for name, number in numbers.items()]
    keys.append(Key(b"llama.attention.layer_norm_rms_epsilon", F32, (1e-5,)))
    keys += gguf_vocabulary("llama").keys
    tensors = [_matrix(rng, "token_embd.weight", VOCABULARY, HIDDEN, 0), _norm("output_norm.weight")]
    for layer in range(LAYERS):
        tensors += [_norm(f"blk.{layer}.attn_norm.weight"), _norm(f"blk.{layer}.ffn_norm.weight")]
        for name, (rows, columns) in _shapes().items():
            fitting = [kind for kind, block in BLOCK_TYPES.items() if columns % block.elements == 0]
            kind = rng.choice((0, 8, rng.choice(fitting)))
            tensors.append(_matrix(rng, f"blk.{layer}.{name}.weight", rows, columns, kind))
    return Parts(tuple(keys), tuple(tensors))


def _gguf(rng: random.Random, folder: Path) -> None:
    path = folder / "x.gguf"
    parts = gguf_model(rng)
    blob = (mutate_parts(rng, parts) if rng.random() < 0.9 else parts).blob()
    path.write_bytes(mutate_bytes(rng, blob, 4) if rng.random() < 0.2 else blob)
    load_and_compute(path)


def safetensors_blob(header: Any, data: bytes, claimed: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def safetensors_model() -> tuple[dict[str, Any], bytes]:
    """Header and data of the same model's weights in float32."""
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        front = f"model.layers.{layer}"
        shapes[f"{front}.input_layernorm.weight"] = shapes[f"{front}.post_attention_layernorm.weight"] = (
            HIDDEN,
        )
        shapes |= {f"{front}.{names[name]}.weight": shape for name, shape in _shapes().items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    return header, np.full(end // 4, 0.1, "<f4").tobytes()


def _folder(rng: random.Random, folder: Path) -> None:
    header, data = safetensors_model()
    config, claimed, sharded = CONFIG, None, rng.random() < 0.3
    file = "model-00001-of-00001.safetensors" if sharded else "model.safetensors"
    index: Any = {"metadata": {}, "weight_map": dict.fromkeys(header, file)}
    generation: Any = {"eos_token_id": [2, 3]}
    tokenizer: Any = byte_level_document()
    match rng.randrange(7):
        case 0 | 1:
            config = mutate_json(rng, config)
        case 2:
            header = mutate_json(rng, header)
        case 3:
            claimed = rng.choice((0, 1, 7, 1 << 20, 1 << 32, 1 << 63, (1 << 64) - 1, (1 << 64) - 8))
        case 4:
            index = mutate_json(rng, index)
        case 5:
            generation = mutate_json(rng, generation)
        case _:
            tokenizer = mutate_json(rng, tokenizer)
    blob = safetensors_blob(header, data, claimed)
    (folder / file).write_bytes(mutate_bytes(rng, blob) if rng.random() < 0.2 else blob)
    if sharded:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if rng.random() < 0.3:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    load_and_compute(folder)


CASES: dict[str, Case] = {"gguf-model": _gguf, "safetensors-folder": _folder}
