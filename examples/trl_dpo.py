"""Direct preference optimization by TRL, before and after `pyllm.patch`. Needs trl and datasets.

python examples/trl_dpo.py --steps 10 --batch-size 4 --length 128
"""

import copy
import tempfile

import datasets
import tiny
import trl
from measured import measured

import pyllm


def train(model: object, reference: object, args: object, folder: str) -> float:
    """`args.steps` steps; the mean loss, 0.693 where nothing was learned."""
    settings = trl.DPOConfig(
        output_dir=folder,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        max_length=args.length,
        learning_rate=3e-4,
        logging_steps=args.steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    half = args.length // 2
    rows = [
        {
            "prompt": tiny.TEXT[i : i + half],
            "chosen": tiny.TEXT[i + half : i + 2 * half - 8],
            "rejected": "z" * half,
        }
        for i in range(args.steps * args.batch_size)
    ]
    data = datasets.Dataset.from_list(rows)
    trainer = trl.DPOTrainer(
        model,
        reference,
        args=settings,
        train_dataset=data,
        processing_class=tiny.tokenizer(args.model),
    )
    return trainer.train().training_loss


def main() -> None:
    args = tiny.arguments(__doc__)
    model = tiny.model(args.model)
    reference = copy.deepcopy(model)
    tokens = args.steps * args.batch_size * args.length * 2  # chosen and rejected
    with tempfile.TemporaryDirectory() as folder:
        with measured("before", tokens):
            first = train(model, reference, args, folder)
        print(pyllm.patch(model, linear=args.linear))
        pyllm.patch(reference, linear=args.linear)
        with measured("after", tokens):
            last = train(model, reference, args, folder)
    print(f"loss {first:.3f} -> {last:.3f}")


if __name__ == "__main__":
    main()
