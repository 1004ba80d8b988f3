"""What the engine hands back: RequestOutput as tokens come, Sequence when an answer is complete."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class RequestOutput:
    """New output of one choice of a request since the last event; what a ``stream_callback`` gets.

    Attributes:
        request_id: As ``add_request`` returned it.
        output_tokens: Ids of the new tokens.
        finished: No further event of this choice follows.
        finish_reason: ``"stop"``, ``"length"``, ``"abort"`` or ``"error"`` when finished, else None.
        text: The new text: whole characters, never the start of a stop string.
        index: Which of the ``n`` choices; -1 for a request that failed before it had any.
        stop_reason: The stop string or token id that ended it; None for the model's end token and for length.
        logprobs: One dict per new token when asked for.
        prompt_logprobs: One dict (the first: None) per token of the prompt, with the first event, when asked for.
        num_tokens_input: Tokens of the prompt.
        num_tokens_cached: Those of them that the prefix cache had.
        ttft: Seconds from arrival to the first token.
        latency: Seconds from arrival to the end, when finished.
        error: Why the request failed, else None.
    """

    request_id: int
    output_tokens: list[int]
    finished: bool
    finish_reason: str | None = None
    text: str = ""
    index: int = 0
    stop_reason: str | int | None = None
    logprobs: list[dict[str, Any]] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    num_tokens_input: int = 0
    num_tokens_cached: int = 0
    ttft: float = 0.0
    latency: float = 0.0
    error: str | None = None


StreamCallback = Callable[[RequestOutput], object]


@dataclass(slots=True)
class Sequence:
    """One complete answer, as ``step()`` returns it. ``as_dict()`` gives the form of ``generate()``."""

    id: int
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    num_tokens_input: int = 0
    num_tokens_cached: int = 0
    ttft: float = 0.0
    latency: float = 0.0
    logprobs: list[dict[str, Any]] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    error: str | None = None

    @property
    def num_tokens_output(self) -> int:
        """Generated tokens."""
        return len(self.token_ids)

    @property
    def tpot(self) -> float:
        """Seconds per output token after the first."""
        return (self.latency - self.ttft) / max(1, len(self.token_ids) - 1)

    def as_dict(self) -> dict[str, Any]:
        """The keys of ``LLMEngine.generate``."""
        names = ("text", "token_ids", "latency", "finish_reason", "num_tokens_input", "num_tokens_output", "ttft", "tpot")
        return {name: getattr(self, name) for name in names}

    def _add(self, output: RequestOutput) -> None:
        self.text += output.text
        self.token_ids += output.output_tokens
        self.num_tokens_input = output.num_tokens_input
        self.num_tokens_cached = output.num_tokens_cached
        self.ttft = output.ttft
        self.latency = output.latency
        self.error = output.error or self.error
        if output.logprobs is not None:
            self.logprobs = (self.logprobs or []) + output.logprobs
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        if output.finished:
            self.finish_reason = output.finish_reason
            self.stop_reason = output.stop_reason
