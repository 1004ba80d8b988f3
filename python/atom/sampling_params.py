"""SamplingParams: what a request asks of the sampler and of the stop logic."""
from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any


@dataclass
class SamplingParams:
    """How the tokens of one request are chosen, and when it ends.

    The first four may be given by position; all others by keyword. Values are checked when a request is made, by
    the same rules as the server's: a wrong one raises ``ValueError`` or ``TypeError`` with the name of the field.

    Attributes:
        temperature: 0 always takes the likeliest token; up to 2.
        max_tokens: Most tokens to generate, cut to what the context leaves.
        ignore_eos: Go on after the model's end token.
        stop_strings: Texts that end the answer; they are not part of it.
        top_p: Keep the likeliest tokens up to this sum of probability, above 0 up to 1.
        top_k: Keep the k likeliest tokens; 0 or -1 keeps all.
        min_p: Drop tokens below this times the likeliest one's probability, 0 to 1.
        presence_penalty: Taken off the logit of every token generated before, -2 to 2.
        frequency_penalty: The same times how often it was generated, -2 to 2.
        repetition_penalty: Divides logits of tokens seen in prompt and answer, above 0.
        seed: Makes the choices of this request repeatable.
        min_tokens: End tokens are masked until then.
        stop_token_ids: Token ids that end the answer.
        include_stop_str_in_output: Keep the stop string in the text.
        logit_bias: Token id to a number added to its logit, cut to -100 to 100.
        n: Answers to the one prompt.
        logprobs: Log-probabilities of each generated token and its k likeliest rivals.
        prompt_logprobs: The same for the tokens of the prompt.
        skip_special_tokens: Leave special tokens out of the text.
        spaces_between_special_tokens: Separate special tokens by spaces.
        structured_outputs: The form the text must have, as the server's field of that name:
            ``{"json": schema}``, ``{"regex": ...}``, ``{"choice": [...]}`` or ``{"grammar": ...}``.
    """

    temperature: float = 1.0
    max_tokens: int = 64
    ignore_eos: bool = False
    stop_strings: list[str] | str | None = None
    _: KW_ONLY
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    min_tokens: int = 0
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    logit_bias: dict[int, float] | None = None
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    structured_outputs: dict[str, Any] | None = None

    def _changed_fields(self) -> dict[str, Any]:
        """What differs from the defaults: all that the engine needs to be told."""
        values = self.__dict__
        return {name: values[name] for name, default in _DEFAULTS if values[name] != default}


_DEFAULTS = [(field.name, field.default) for field in fields(SamplingParams)]
