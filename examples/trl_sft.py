"""Supervised fine-tuning by TRL on packed rows, before and after `pyllm.patch`. Needs trl and datasets.

python examples/trl_sft.py --steps 20 --batch-size 4 --length 256
"""

import tempfile

import datasets
import tiny
import trl
from measured import measured

import pyllm


def train(model: object, args: object, folder: str) -> float:
    """`args.steps` steps; the mean loss."""
    settings = trl.SFTConfig(
        output_dir=folder,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        max_length=args.length,
        packing=True,
        learning_rate=3e-4,
        logging_steps=args.steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    sentence = tiny.TEXT[: args.length // 3]
    rows = [{"text": sentence[i % 40 :]} for i in range(4 * args.steps * args.batch_size)]
    data = datasets.Dataset.from_list(rows)
    trainer = trl.SFTTrainer(
        model, args=settings, train_dataset=data, processing_class=tiny.tokenizer(args.model)
    )
    return trainer.train().training_loss


def main() -> None:
    args = tiny.arguments(__doc__)
    model = tiny.model(args.model)
    tokens = args.steps * args.batch_size * args.length
    with tempfile.TemporaryDirectory() as folder:
        with measured("before", tokens):
            first = train(model, args, folder)
        print(pyllm.patch(model, linear=args.linear))
        with measured("after", tokens):
            last = train(model, args, folder)
    print(f"loss {first:.3f} -> {last:.3f}")


if __name__ == "__main__":
    main()
