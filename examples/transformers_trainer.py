"""Hugging Face's Trainer, before and after `pyllm.patch`. Needs transformers and accelerate.

python examples/transformers_trainer.py --steps 20 --batch-size 4 --length 256
"""

import tempfile

import tiny
import transformers
from measured import measured

import pyllm


def train(model: transformers.PreTrainedModel, args: object, folder: str) -> float:
    """`args.steps` steps; the last logged loss."""
    settings = transformers.TrainingArguments(
        output_dir=folder,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=3e-4,
        logging_steps=args.steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    data = tiny.rows(args.steps * args.batch_size, args.length)
    trainer = transformers.Trainer(
        model, settings, train_dataset=data, data_collator=transformers.default_data_collator
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
