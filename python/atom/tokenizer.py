"""The model's tokenizer and chat template, as far as prompts need them."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atom._atom import Engine


class Tokenizer:
    """Text to token ids and back, and chats to prompts; equal to transformers' for the same model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        info = engine.tokenizer_info()
        self.bos_token: str = info["bos_token"]
        self.eos_token: str = info["eos_token"]
        self.vocab_size: int = info["vocab_size"]
        self.has_chat_template: bool = info["has_chat_template"]

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens written in it are recognised."""
        return self._engine.encode(text, add_special_tokens)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids; ids outside the vocabulary are skipped."""
        return self._engine.decode(ids, skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt of a chat, by the model's own template.

        Args:
            messages: ``{"role": ..., "content": ...}`` dicts.
            tools: Functions the model may call, as in the OpenAI API.
            add_generation_prompt: End where the assistant's answer begins.
            continue_final_message: End within the last message, to have it continued.
            variables: Further variables of the template, such as ``enable_thinking=True``.

        Raises:
            ValueError: The model has no template, or it refused the messages.
        """
        if continue_final_message:
            add_generation_prompt = False
        return self._engine.apply_chat_template(
            [dict(message) for message in messages], tools, add_generation_prompt, continue_final_message, variables
        )
