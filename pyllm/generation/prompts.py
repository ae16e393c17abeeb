"""What a user may give as prompts, turned into token ids."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from pyllm.generation.config import GenerationConfig

if TYPE_CHECKING:
    from pyllm.tokenizers import Tokenizer

Message = Mapping[str, Any]
Prompt: TypeAlias = "str | Sequence[int] | Sequence[Message] | Tensor"


def encode_prompts(
    prompts: Prompt | Sequence[Prompt], tokenizer: Tokenizer | None, bos_token_id: int | None
) -> list[list[int]]:
    """Token ids of one prompt or several; see `encode_prompt` for what a prompt may be. A 2-D tensor is one per row.

    Raises:
        ValueError, TypeError: no prompts, or one of them is not a prompt; names it.
    """
    if isinstance(prompts, Tensor):
        rows = prompts.tolist() if prompts.dim() == 2 else [prompts]
    elif not isinstance(prompts, (str, Sequence)):
        raise TypeError(f"prompts must be text, token ids, chat messages, or a list of them, got {prompts!r}")
    elif not len(prompts) and not isinstance(prompts, str):
        raise ValueError("prompts is empty, expected at least one prompt")
    else:
        rows = [prompts] if _is_one_prompt(prompts) else list(prompts)
    return [
        encode_prompt(row, tokenizer, bos_token_id, f"prompt {number}") for number, row in enumerate(rows)
    ]


def encode_prompt(
    prompt: Prompt, tokenizer: Tokenizer | None, bos_token_id: int | None, name: str = "prompt"
) -> list[int]:
    """Token ids of one prompt.

    Text is the model's whole input: the tokenizer's special tokens in it are taken as such, and what the tokenizer
    puts around a text (BOS) is added unless it is there already. Chat messages ({"role": ..., "content": ...}) go
    through the model's chat template. Token ids are taken as they are. An empty text becomes BOS.

    Raises:
        ValueError: text without a tokenizer, empty text without a BOS token, a malformed message.
        TypeError: anything else that is not a prompt.
    """
    if isinstance(prompt, Tensor):
        prompt = prompt.tolist()
    if isinstance(prompt, str):
        return _encode_text(prompt, _needed(tokenizer, name), bos_token_id, name)
    if not isinstance(prompt, Sequence):
        raise TypeError(
            f"{name} must be text, a list of token ids or a list of chat messages, got {prompt!r}"
        )
    if prompt and all(isinstance(part, Mapping) for part in prompt):
        messages = [_checked_message(part, name) for part in prompt]
        return list(_needed(tokenizer, name).apply_chat_template(messages, add_generation_prompt=True))
    try:
        return [operator.index(token) for token in prompt]  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must hold token ids or chat messages only, got {prompt!r}") from None


def _is_one_prompt(prompts: str | Sequence[Any]) -> bool:
    return isinstance(prompts, str) or isinstance(prompts[0], (Integral, Mapping))


def _encode_text(text: str, tokenizer: Tokenizer, bos_token_id: int | None, name: str) -> list[int]:
    ids = list(tokenizer.encode(text, add_special_tokens=True, allowed_special="all"))
    if len(ids) > 1 and ids[0] == ids[1] == bos_token_id:
        ids = ids[1:]
    if ids:
        return ids
    if bos_token_id is None:
        raise ValueError(f"{name} is empty and the model has no BOS token to start from")
    return [bos_token_id]


def _needed(tokenizer: Tokenizer | None, name: str) -> Tokenizer:
    if tokenizer is None:
        raise ValueError(f"{name} is text, but the model has no tokenizer; give token ids")
    return tokenizer


def _checked_message(message: Any, name: str) -> dict[str, Any]:
    if not isinstance(message.get("role"), str) or "content" not in message:
        raise ValueError(f'{name}: a chat message needs "role" and "content", got {dict(message)!r}')
    return dict(message)


def check_prompts(
    network: Any,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    tokenizer: Any,
    context: int | None = None,
) -> None:
    """Raises ValueError for prompts or options that do not fit the network, see `generate`.

    `context`: tokens that a text may have, the network's own number if None.
    """
    vocab_size = network.config.vocab_size
    context = network.config.max_position_embeddings if context is None else context
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompts: prompt {number} is empty, expected at least one token")
        if len(prompt) >= context:
            raise ValueError(
                f"prompts: prompt {number} has {len(prompt)} tokens and leaves no room in the model's "
                f"context of {context}"
            )
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise ValueError(
                f"prompts: prompt {number} has a token outside [0, {vocab_size}): "
                f"{min(prompt) if min(prompt) < 0 else max(prompt)}"
            )
    if config.stop and tokenizer is None:
        raise ValueError(
            f"stop needs a tokenizer to look for {list(config.stop)!r} in text; the model has none"
        )
    largest = max(config.logit_bias, default=0)
    if largest >= vocab_size:
        raise ValueError(f"logit_bias: token {largest} is outside the vocabulary of {vocab_size} tokens")
