"""A small random Llama and a text to train it on, so that the examples need no download. Use your own instead."""

import argparse

import torch
import transformers

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. " * 400
VOCABULARY = 258  # bytes, then the marks for padding and the end


def arguments(description: str | None) -> argparse.Namespace:
    """The options all examples share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", help="folder of a checkpoint; without one, a small random Llama on bytes")
    parser.add_argument("--steps", type=int, default=20, help="training steps before and after the patch")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--linear", action="store_true", help="pyllm.patch(..., linear=True)")
    return parser.parse_args()


def model(path: str | None) -> transformers.PreTrainedModel:
    """The checkpoint at `path`, or four layers of width 256 with random weights over bytes."""
    if path is not None:
        return transformers.AutoModelForCausalLM.from_pretrained(path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        pad_token_id=256,
        bos_token_id=None,
        eos_token_id=257,
    )
    return transformers.LlamaForCausalLM(config)


def tokenizer(path: str | None) -> transformers.PreTrainedTokenizerBase:
    """The checkpoint's, or one token per byte and two special ones."""
    if path is not None:
        return transformers.AutoTokenizer.from_pretrained(path)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytewise, pad_token="<pad>", eos_token="<eos>"
    )


def rows(count: int, length: int) -> list[dict[str, list[int]]]:
    """`count` rows of `length` byte ids, and the labels a causal model is trained on."""
    ids = list(TEXT.encode())
    starts = [(row * 37) % (len(ids) - length) for row in range(count)]
    return [{"input_ids": ids[s : s + length], "labels": ids[s : s + length]} for s in starts]
