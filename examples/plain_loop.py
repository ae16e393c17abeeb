"""A training loop of one's own, before and after `pyllm.patch`; AdamW and clipping are pyllm's too.

python examples/plain_loop.py --steps 20 --batch-size 4 --length 256
"""

import tiny
import torch
from measured import measured

import pyllm
from pyllm.ops import gradient_norm
from pyllm.optim import AdamW, clip_coefficient


def plain_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> float:
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def our_step(model: torch.nn.Module, optimizer: AdamW, ids: torch.Tensor) -> float:
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    norm = gradient_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
    optimizer.step(grad_scale=clip_coefficient(norm, 1.0))  # clips without a pass over the gradients
    optimizer.zero_grad()
    return loss.item()


def main() -> None:
    args = tiny.arguments(__doc__)
    model = tiny.model(args.model).train()
    batch = tiny.rows(args.batch_size, args.length)
    ids = torch.tensor([row["input_ids"] for row in batch])
    tokens = args.steps * ids.numel()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    plain_step(model, optimizer, ids)  # the first step pays for what later ones find ready
    with measured("before", tokens):
        losses = [plain_step(model, optimizer, ids) for _ in range(args.steps)]

    print(pyllm.patch(model, linear=args.linear))
    ours = AdamW(model.parameters(), lr=3e-4)
    ours.load_state_dict(optimizer.state_dict())  # training goes on where it was
    our_step(model, ours, ids)
    with measured("after", tokens):
        losses += [our_step(model, ours, ids) for _ in range(args.steps)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
