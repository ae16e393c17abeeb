"""The facade: a network with its tokenizer, loaded, called, generated from and saved."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyllm import generation
from pyllm.checkpoints import load_checkpoint, save_checkpoint
from pyllm.checkpoints.atomic import atomic_path
from pyllm.generation import Completion, GenerationConfig, Request
from pyllm.generation.config import with_options
from pyllm.generation.prompts import Prompt, encode_prompt, encode_prompts
from pyllm.models import Encoder, EncoderDecoder, Transformer
from pyllm.quantization import quantize_network
from pyllm.tokenizers import Tokenizer

# Texts that an encoder sees at once.
_EMBEDDED_TOGETHER = 32


def load(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str = "auto",
    quantize: str | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """Loads a model from a .gguf file, or from a folder with config.json and *.safetensors.

    Args:
        path: the file or folder. Nothing is downloaded: a name like "org/name" that is not on disk is an error that
            says how to get it.
        dtype: of the weights, as a torch dtype or its name; "auto" keeps the stored one. Quantized weights then stay
            quantized and are computed on in place, with float32 activations; a dtype asked for dequantizes them.
        quantize: a format of `pyllm.quantization.quantize`, "q4_k" or "int8" for example: the linear layers of a model
            that is not quantized are rounded to it.
        device: where the weights go; the CPU by default.

    Raises:
        FileNotFoundError: nothing is at `path`. ValueError: it is damaged or of a kind that is not supported, or
            cannot be quantized so.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string or a path, got {path!r}")
    checkpoint = load_checkpoint(path, dtype=dtype, device=device)
    if quantize is not None:
        if checkpoint.network.is_quantized:
            raise ValueError(
                f"quantize={quantize!r}: {path} is quantized already; a dtype dequantizes it first"
            )
        quantize_network(checkpoint.network, quantize)
    tokenizer = None if checkpoint.tokenizer_path is None else Tokenizer.from_file(checkpoint.tokenizer_path)
    return Model(checkpoint.network, tokenizer)


class Model:
    """A network and its tokenizer.

    Args:
        network: the torch module; what trainers, optimizers and hooks take.
        tokenizer: None if the model has none; then prompts are token ids and completions have no text.
        eos_token_ids: tokens that end a text, besides those that the network's config and the tokenizer name.

    Attributes:
        network, tokenizer, eos_token_ids (all of them).
    """

    def __init__(
        self,
        network: Transformer | Encoder,
        tokenizer: Tokenizer | None = None,
        *,
        eos_token_ids: Collection[int] = (),
    ) -> None:
        self.network: Any = network
        self.tokenizer = tokenizer
        known = [*network.config.eos_token_ids, *eos_token_ids]
        if tokenizer is not None and tokenizer.eos_token_id is not None:
            known.append(tokenizer.eos_token_id)
        self.eos_token_ids = tuple(dict.fromkeys(known))

    @property
    def config(self) -> Any:
        """`ModelConfig` of a decoder, `EncoderConfig` of an encoder, `EncoderDecoderConfig` of a T5."""
        return self.network.config

    def __call__(self, input_ids: Tensor, **options: Any) -> Tensor:
        """Logits (batch, tokens, vocab_size) of input_ids (batch, tokens); options as in `Transformer.forward`."""
        return self.network(input_ids, **options)

    def generate(
        self, prompts: Prompt | Sequence[Prompt], config: GenerationConfig | None = None, **options: Any
    ) -> list[Completion]:
        """Completes one prompt or several.

        Args:
            prompts: text, token ids, or chat messages, or a list of these. Text is the whole input, special tokens
                included; chat messages, {"role": "user", "content": ...}, go through the model's chat template.
            config: default greedy, at most 256 tokens.
            options: fields of `GenerationConfig` by name, in place of `config`'s: generate(prompt, max_new_tokens=20).

        Returns:
            A list of completions, also for one prompt: `config.num_return_sequences` per prompt, in order.

        Raises:
            ValueError, TypeError: a prompt or an option does not fit the model; nothing is computed then.
        """
        ids = encode_prompts(prompts, self.tokenizer, self.config.bos_token_id)
        return generation.generate(
            self._decoder("generate"),
            ids,
            with_options(config, options),
            eos_token_ids=self.eos_token_ids,
            tokenizer=self.tokenizer,
        )

    def stream(self, prompt: Prompt, config: GenerationConfig | None = None, **options: Any) -> Request:
        """Completes one prompt and gives the text while it is made.

            for piece in (stream := model.stream("Once")):
                print(piece, end="", flush=True)
            print(stream.completion.finish_reason)

        Pieces are whole characters, and no part of a stop string. Arguments and errors as in `generate`.
        """
        ids = encode_prompt(prompt, self.tokenizer, self.config.bos_token_id)
        return generation.stream(
            self._decoder("stream"),
            ids,
            with_options(config, options),
            eos_token_ids=self.eos_token_ids,
            tokenizer=self.tokenizer,
        )

    def log_probs(self, input_ids: Sequence[int] | Tensor) -> Tensor:
        """Log-probability of each token given those before it.

        Args:
            input_ids: (tokens,) at least two, at most as many as the model's context.

        Returns:
            (tokens - 1,) float32: entry i belongs to input_ids[i + 1].

        Raises:
            ValueError: another shape or length. IndexError: a token outside the vocabulary.
        """
        ids = torch.as_tensor(input_ids, device=self.network.device)
        context = self.config.max_position_embeddings
        if ids.dim() != 1 or not 2 <= len(ids) <= context:
            raise ValueError(
                f"input_ids must have shape (tokens,) with 2 to {context} tokens, got {tuple(ids.shape)}"
            )
        if isinstance(self.network, EncoderDecoder):
            raise TypeError("log_probs needs a decoder, the model is an encoder-decoder")
        # Not inference mode: the result may become a constant of a loss.
        with torch.no_grad():
            return generation.sequence_log_probs(self._decoder("log_probs"), ids)

    def _decoder(self, method: str) -> Any:
        if isinstance(self.network, Encoder):
            raise TypeError(
                f"{method} needs a model that predicts tokens, the model is a {self.config.model_type}"
            )
        return self.network

    def embed(self, texts: str | Sequence[str], normalize: bool = True) -> Tensor:
        """A vector per text, (n, dim) float32: the mean of its tokens' hidden states.

        The model must be an encoder (BERT, MiniLM). With `normalize` vectors have length one, so that their products
        are cosines. A text that is longer than the model's context is cut. Texts of like length are computed together;
        neighbours do not change a vector by more than rounding.

        Raises:
            TypeError: the model is no encoder. ValueError: no texts, or no tokenizer.
        """
        if not isinstance(self.network, Encoder):
            raise TypeError(f"embed needs an encoder such as BERT, the model is a {self.config.model_type}")
        if self.tokenizer is None:
            raise ValueError("embed: the model has no tokenizer")
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError("texts is empty, expected at least one text")
        limit = self.network.config.max_position_embeddings
        ids = [_cut(ids, limit) for ids in self.tokenizer.encode_batch(texts, add_special_tokens=True)]
        vectors = torch.empty(len(ids), self.network.config.hidden_size)
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        with torch.inference_mode():
            for start in range(0, len(order), _EMBEDDED_TOGETHER):
                places = order[start : start + _EMBEDDED_TOGETHER]
                lengths = torch.tensor([len(ids[place]) for place in places])
                padded = torch.nn.utils.rnn.pad_sequence(
                    [torch.tensor(ids[place]) for place in places], batch_first=True
                )
                device = self.network.device
                vectors[places] = self.network.embed(
                    padded.to(device), lengths.to(device), normalize=normalize
                ).to("cpu", torch.float32)
        return vectors

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes config.json, generation_config.json, model.safetensors and, with a tokenizer, tokenizer.json.

        transformers loads the folder, and so does `pyllm.load`. Each file is written whole beside its place, then
        renamed.
        """
        folder = Path(folder)
        save_checkpoint(self.network, folder)
        self.save_tokenizer(folder)

    def save_tokenizer(self, folder: Path) -> None:
        """Writes generation_config.json and, with a tokenizer, tokenizer.json beside a model in `folder`."""
        if self.tokenizer is not None:
            self.tokenizer.save(folder / "tokenizer.json")
        tokens = {"bos_token_id": self.config.bos_token_id, "eos_token_id": list(self.eos_token_ids) or None}
        with atomic_path(folder / "generation_config.json") as path:
            path.write_text(json.dumps(tokens, indent=2) + "\n", encoding="utf-8")


def _cut(ids: Sequence[int], limit: int) -> Sequence[int]:
    """The first `limit` tokens, the last of them (an end marker) kept."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
