"""nanoGPT's recipe for tiny Shakespeare on a CPU: data, schedule, and the same network and loop for each contender.

4 layers, 4 heads, 128 wide, no biases; 12 rows of 64 characters; 2,000 steps of AdamW at 1e-3, falling to 1e-4 by a
cosine after 100 steps of warm-up; gradients clipped at 1; no dropout. The plain network and loop are ordinary PyTorch:
F.scaled_dot_product_attention, fused AdamW. Ours starts from the same weights and reads the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyllm import ops
from pyllm.models import Transformer, gpt2_config
from pyllm.optim import AdamW, clip_coefficient

STEPS, ROWS, TOKENS, WIDTH, HEADS, LAYERS = 2000, 12, 64, 128, 4, 4
_PEAK_RATE, _LAST_RATE, _WARM_UP = 1e-3, 1e-4, 100
_OPTIONS: dict[str, Any] = {"lr": _PEAK_RATE, "betas": (0.9, 0.99)}
_WEIGHT_DECAY, _MAX_NORM = 0.1, 1.0
EAGER, COMPILED, OURS = "torch", "torch.compile", "pyllm"
CONTENDERS = (OURS, EAGER, COMPILED)


class Characters:
    """A text as character ids, the last tenth of it for validation."""

    def __init__(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        alphabet = {character: index for index, character in enumerate(sorted(set(text)))}
        ids = torch.tensor([alphabet[character] for character in text])
        self.vocab_size = len(alphabet)
        self.train, self.validation = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a training step, (ROWS, TOKENS) each; a function of the step alone."""
        generator = torch.Generator().manual_seed(step)
        starts = torch.randint(len(self.train) - TOKENS, (ROWS,), generator=generator)
        rows = torch.stack([self.train[start : start + TOKENS + 1] for start in starts])
        return rows[:, :-1], rows[:, 1:]

    def validation_rows(self) -> tuple[Tensor, Tensor]:
        """All of the validation text, as inputs and targets (rows, TOKENS)."""
        rows = (len(self.validation) - 1) // TOKENS
        inputs = self.validation[: rows * TOKENS].view(rows, TOKENS)
        return inputs, self.validation[1 : rows * TOKENS + 1].view(rows, TOKENS)


def rate_at(step: int) -> float:
    """Learning rate of a step."""
    if step < _WARM_UP:
        return _PEAK_RATE * (step + 1) / (_WARM_UP + 1)
    progress = (step - _WARM_UP) / (STEPS - _WARM_UP)
    return _LAST_RATE + 0.5 * (1 + math.cos(math.pi * progress)) * (_PEAK_RATE - _LAST_RATE)


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp_norm = nn.LayerNorm(WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(rows, tokens, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(rows, tokens, WIDTH))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class PlainGPT(nn.Module):
    """The network in plain PyTorch: (rows, tokens) ids and targets -> mean loss."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, WIDTH)
        self.positions = nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                writes_residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / (math.sqrt(2 * LAYERS) if writes_residual else 1.0))

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@dataclass(frozen=True)
class Run:
    """A contender: `step(number, inputs, targets)` trains, `loss(inputs, targets)` is the mean loss, off the clock."""

    step: Callable[[int, Tensor, Tensor], None]
    loss: Callable[[Tensor, Tensor], Tensor]


def make_run(contender: str, vocab_size: int) -> Run:
    """The contender at step 0, the same weights for each."""
    torch.manual_seed(0)
    plain = PlainGPT(vocab_size)
    return _our_run(plain, vocab_size) if contender == OURS else _plain_run(plain, contender == COMPILED)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() == 2], "weight_decay": _WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() != 2], "weight_decay": 0.0},
    ]


def _plain_run(model: PlainGPT, compiled: bool) -> Run:
    optimizer = torch.optim.AdamW(_groups(model), fused=True, **_OPTIONS)
    parameters = list(model.parameters())
    forward = torch.compile(model) if compiled else model

    def step(number: int, inputs: Tensor, targets: Tensor) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(number)
        forward(inputs, targets).backward()
        nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return Run(step, model)


def _our_run(plain: PlainGPT, vocab_size: int) -> Run:
    config = gpt2_config(
        vocab_size, WIDTH, LAYERS, HEADS, bias=False, hidden_act="gelu", max_position_embeddings=TOKENS
    )
    model = Transformer(config)
    model.load_state_dict(our_state(plain))
    optimizer = AdamW(_groups(model), **_OPTIONS)
    parameters = list(model.parameters())

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return ops.linear_cross_entropy(model.hidden_states(inputs), model.lm_head_weight, targets)

    def step(number: int, inputs: Tensor, targets: Tensor) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(number)
        loss(inputs, targets).backward()
        norm = ops.gradient_norm([p.grad for p in parameters if p.grad is not None])
        optimizer.step(grad_scale=clip_coefficient(float(norm), _MAX_NORM))
        optimizer.zero_grad()

    return Run(step, loss)


def our_state(plain: PlainGPT) -> dict[str, Tensor]:
    """The plain network's weights under our names."""
    state = {
        "model.embed_tokens.weight": plain.tokens.weight,
        "model.embed_positions.weight": plain.positions.weight,
        "model.norm.weight": plain.norm.weight,
    }
    for index, block in enumerate(plain.blocks):
        assert isinstance(block, PlainBlock)
        names = {
            "input_layernorm": block.attention_norm.weight,
            "self_attn.o_proj": block.out.weight,
            "post_attention_layernorm": block.mlp_norm.weight,
            "mlp.up_proj": block.up.weight,
            "mlp.down_proj": block.down.weight,
        }
        for name, weight in zip("qkv", block.qkv.weight.chunk(3), strict=True):
            names[f"self_attn.{name}_proj"] = weight
        state |= {f"model.layers.{index}.{name}.weight": weight for name, weight in names.items()}
    return {name: weight.detach().clone() for name, weight in state.items()}
