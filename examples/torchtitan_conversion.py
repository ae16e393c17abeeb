"""A model written out in plain PyTorch, as torchtitan's are, converted to pyllm's ops: parameters and their names stay.

`PyllmConverter` has the shape of torchtitan's model converters: `convert(model)` and `post_optimizer_hook(model)`.

python examples/torchtitan_conversion.py --steps 20 --batch-size 4 --length 256
"""

import tiny
import torch
from measured import measured
from torch import Tensor, nn
from torch.nn import functional as F

import pyllm
from pyllm import ops

WIDTH, HEADS, LAYERS, HIDDEN = 256, 8, 4, 688


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        q, k = self.rotate(q, k, cos, sin)
        return self.wo(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def rotate(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        def turned(x: Tensor) -> Tensor:
            a, b = x.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

        return turned(q), turned(k)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.w2 = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.gate(self.w1(x), self.w3(x)))

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(), FeedForward()
        self.attention_norm, self.ffn_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(tiny.VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.output = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, tiny.VOCABULARY, bias=False)

    def forward(self, tokens: Tensor, target: Tensor) -> Tensor:
        pairs = WIDTH // HEADS // 2
        angles = torch.outer(torch.arange(tokens.shape[1]), 10000.0 ** (-torch.arange(pairs) / pairs))
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        return self.loss(self.norm(x), target)

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.output(x).flatten(0, 1), target.flatten())


class PyllmConverter:
    """Puts pyllm's ops under a model of the classes above."""

    def convert(self, model: Transformer) -> None:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.RMSNorm):
                ours = pyllm.nn.RMSNorm(module.weight.shape[0], eps=module.eps or 1.2e-7)
                ours.weight = module.weight
                model.set_submodule(name, ours)
            elif isinstance(module, Attention):
                module.rotate = ops.rope
                module.attend = lambda q, k, v: ops.attention(q, k, v, is_causal=True)
            elif isinstance(module, FeedForward):
                module.gate = ops.swiglu
        model.loss = lambda x, target: ops.linear_cross_entropy(
            x.flatten(0, 1), model.output.weight, target.flatten()
        )

    def post_optimizer_hook(self, model: Transformer) -> None:
        """Nothing to do after a step."""


def train(model: Transformer, optimizer: torch.optim.Optimizer, ids: Tensor, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    args = tiny.arguments(__doc__)
    torch.manual_seed(0)
    model = Transformer()
    ids = torch.tensor([row["input_ids"] for row in tiny.rows(args.batch_size, args.length + 1)])
    tokens = args.steps * args.batch_size * args.length
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    names = list(model.state_dict())

    train(model, optimizer, ids, 1)
    with measured("before", tokens):
        losses = train(model, optimizer, ids, args.steps)
    PyllmConverter().convert(model)
    assert list(model.state_dict()) == names
    ours = pyllm.optim.AdamW(model.parameters(), lr=3e-4)
    ours.load_state_dict(optimizer.state_dict())
    train(model, ours, ids, 1)
    with measured("after", tokens):
        losses += train(model, ours, ids, args.steps)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
