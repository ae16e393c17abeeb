"""Chats as ids: messages through the tokenizer's template, in which no message becomes a control token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyllm.tokenizers.definition import AddedToken
from pyllm.tokenizers.token_lookup import TokenLookup

if TYPE_CHECKING:
    from pyllm.tokenizers.chat import RenderedChat


class Chats(TokenLookup):
    """The part of a Tokenizer that encodes chats."""

    bos_token: str | None
    eos_token: str | None
    chat_template: str | Mapping[str, str] | None
    _added: list[AddedToken]
    _control_flags: tuple[Any, list[bool]] | None

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """The ids of a chat: the template's control tokens become their ids, those that a message spells out do not.

        messages: dicts with "role" and "content"; tools: JSON schemas; `variables` are passed on to the template, e.g.
        enable_thinking=False.

        Text in messages, tools and variables never becomes a control token, and no part of one, whatever the template
        makes of it: only what the template's own literals spell does (and bos, eos and well-known roles). Control
        tokens are the special ones, and of other added tokens those that the template spells (Qwen3's `</think>`) or
        that are written <|...|>.

        Raises ValueError if there is no template, or if it rejects the messages.
        """
        chat = self._render(messages, tools, add_generation_prompt, variables)
        return self._encoding.encode(chat.text, self._encoding.options(None, chat.untrusted, self._control()))

    def render_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of a chat, see `apply_chat_template`; in it control tokens cannot be told from messages any more."""
        return self._render(messages, tools, add_generation_prompt, variables).text

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> RenderedChat:
        from pyllm.tokenizers.chat import render_chat

        control = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return render_chat(
            self.chat_template,
            messages,
            tools=tools,
            control={name: token for name, token in control.items() if token is not None},
            variables={"add_generation_prompt": add_generation_prompt, **variables},
        )

    def _control(self) -> list[bool]:
        """For each added token whether text of a message must never become it."""
        from pyllm.tokenizers.chat import control_flags

        if self._control_flags is None or self._control_flags[0] != self.chat_template:
            self._control_flags = (self.chat_template, control_flags(self._added, self.chat_template))
        return self._control_flags[1]
