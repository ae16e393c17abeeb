"""A LightningModule, before and after `pyllm.patch`. Needs transformers and lightning.

python examples/lightning_loop.py --steps 20 --batch-size 4 --length 256
"""

import lightning
import tiny
import torch
from measured import measured

import pyllm


class LanguageModel(lightning.LightningModule):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.last = model, 0.0

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        loss = self.model(**batch).loss
        self.last = loss.item()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-4)


def fit(module: LanguageModel, args: object) -> float:
    data = [
        {name: torch.tensor(ids) for name, ids in row.items()}
        for row in tiny.rows(args.steps * args.batch_size, args.length)
    ]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=args.steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=args.batch_size))
    return module.last


def main() -> None:
    args = tiny.arguments(__doc__)
    module = LanguageModel(tiny.model(args.model).train())
    tokens = args.steps * args.batch_size * args.length
    with measured("before", tokens):
        first = fit(module, args)
    print(pyllm.patch(module.model, linear=args.linear))
    with measured("after", tokens):
        last = fit(module, args)
    print(f"loss {first:.3f} -> {last:.3f}")


if __name__ == "__main__":
    main()
