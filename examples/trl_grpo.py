"""Group-relative policy optimization by TRL, before and after `pyllm.patch`. Needs trl and datasets.

The reward is the share of letters in a completion. Most of a step is `generate`, which the patch also serves.

python examples/trl_grpo.py --steps 5 --batch-size 8 --length 64
"""

import tempfile

import datasets
import tiny
import trl
from measured import measured

import pyllm

GROUP = 4


def share_of_letters(completions: list[str], **_: object) -> list[float]:
    """The reward of each completion."""
    return [sum(c.isascii() and c.isalpha() for c in text) / max(1, len(text)) for text in completions]


def train(model: object, args: object, folder: str) -> float:
    """`args.steps` steps; the last mean reward."""
    settings = trl.GRPOConfig(
        output_dir=folder,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        num_generations=GROUP,
        max_completion_length=args.length,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    rows = [{"prompt": tiny.TEXT[i : i + 16]} for i in range(args.steps * args.batch_size)]
    trainer = trl.GRPOTrainer(
        model,
        reward_funcs=share_of_letters,
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny.tokenizer(args.model),
    )
    trainer.train()
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry][-1]


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
    print(f"reward {first:.3f} -> {last:.3f}")


if __name__ == "__main__":
    main()
