"""Sentence vectors by sentence-transformers, before and after `pyllm.patch`. Needs sentence-transformers, datasets.

python examples/sentence_embeddings.py --steps 10 --batch-size 8 --length 64
"""

import tempfile
from pathlib import Path

import datasets
import sentence_transformers
import tiny
import torch
import transformers
from measured import measured
from sentence_transformers import losses, models

import pyllm


def encoder(folder: Path, length: int) -> sentence_transformers.SentenceTransformer:
    """A small random BERT over bytes; with --model, give SentenceTransformer the folder instead."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=688,
        pad_token_id=256,
    )
    transformers.BertModel(config).save_pretrained(folder)
    tiny.tokenizer(None).save_pretrained(folder)
    bert = models.Transformer(str(folder), max_seq_length=length)
    return sentence_transformers.SentenceTransformer(modules=[bert, models.Pooling(256)], device="cpu")


def train(model: sentence_transformers.SentenceTransformer, args: object, folder: str) -> float:
    """`args.steps` steps; the mean loss of telling pairs apart."""
    starts = [7 * i for i in range(args.steps * args.batch_size)]
    pairs = [
        {"anchor": tiny.TEXT[s : s + args.length], "positive": tiny.TEXT[s + 3 : s + 3 + args.length]}
        for s in starts
    ]
    settings = sentence_transformers.SentenceTransformerTrainingArguments(
        output_dir=folder,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=1e-4,
        logging_steps=args.steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model,
        args=settings,
        train_dataset=datasets.Dataset.from_list(pairs),
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    return trainer.train().training_loss


def main() -> None:
    args = tiny.arguments(__doc__)
    tokens = args.steps * args.batch_size * args.length * 2
    with tempfile.TemporaryDirectory() as folder:
        model = (
            sentence_transformers.SentenceTransformer(args.model)
            if args.model
            else encoder(Path(folder), args.length)
        )
        with measured("before", tokens):
            first = train(model, args, folder)
        print(pyllm.patch(model[0].auto_model, linear=args.linear))
        with measured("after", tokens):
            last = train(model, args, folder)
    print(f"loss {first:.3f} -> {last:.3f}")


if __name__ == "__main__":
    main()
