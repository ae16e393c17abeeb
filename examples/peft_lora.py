"""LoRA by PEFT, before and after `pyllm.patch`. Needs transformers and peft.

The patch sees through PEFT's wrappers: attention, norms, rotation, MLP and loss are ours, the adapters PEFT's.

python examples/peft_lora.py --steps 20 --batch-size 4 --length 256
"""

import peft
import tiny
import torch
from measured import measured

import pyllm


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> float:
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def main() -> None:
    args = tiny.arguments(__doc__)
    base = tiny.model(args.model)
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora).train()
    ids = torch.tensor([row["input_ids"] for row in tiny.rows(args.batch_size, args.length)])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    tokens = args.steps * ids.numel()

    step(model, optimizer, ids)
    with measured("before", tokens):
        losses = [step(model, optimizer, ids) for _ in range(args.steps)]
    print(pyllm.patch(base, linear=args.linear))
    step(model, optimizer, ids)
    with measured("after", tokens):
        losses += [step(model, optimizer, ids) for _ in range(args.steps)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
