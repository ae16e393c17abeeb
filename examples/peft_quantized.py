"""LoRA by PEFT on a 4-bit GGUF base that stays as it is in the file: QLoRA without a copy of the weights in memory.

Before: transformers dequantizes the file. After: `pyllm.patch()` keeps its blocks. Needs accelerate and peft.

python examples/peft_quantized.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --steps 5 --batch-size 2 --length 128
"""

import argparse
import gc
from pathlib import Path

import peft
import torch
import transformers
from measured import measured
from tiny import TEXT

import pyllm


def adapted(path: Path) -> torch.nn.Module:
    """The model in the file with adapters on every linear layer."""
    base = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    print(f"weights {base.get_memory_footprint() / 1e6:,.0f} MB")
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(base, lora).train()


def train(model: torch.nn.Module, batch: torch.Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5, help="training steps before and after the patch")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    args = parser.parse_args()
    ids = pyllm.Tokenizer.from_file(args.gguf).encode(TEXT)
    starts = [row * 37 % (len(ids) - args.length) for row in range(args.batch_size)]
    batch = torch.tensor([ids[start : start + args.length] for start in starts])
    tokens = args.steps * batch.numel()

    with measured("before", tokens):  # loading counts, as memory and as time
        first = train(adapted(args.gguf), batch, args.steps)
    gc.collect()
    print(pyllm.patch())
    with measured("after", tokens):
        last = train(adapted(args.gguf), batch, args.steps)
    print(f"loss {first[0]:.3f} -> {first[-1]:.3f} before, {last[0]:.3f} -> {last[-1]:.3f} after")


if __name__ == "__main__":
    main()
