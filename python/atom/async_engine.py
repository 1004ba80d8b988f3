"""AsyncLLMEngine: the engine for asyncio. No thread is in between: the event loop watches a descriptor."""
from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any

from atom._atom import EngineError, EventQueue
from atom.engine_args import EngineArgs
from atom.llm_engine import LLMEngine, Prompt
from atom.outputs import RequestOutput
from atom.sampling_params import SamplingParams


class AsyncLLMEngine:
    """``async for output in engine.generate(prompt, params)``; arguments and errors are those of ``LLMEngine``.

    Requests of many tasks run together. A task that is cancelled, or leaves its loop early, aborts its request.
    """

    def __init__(self, model: str | os.PathLike[str] = EngineArgs.model, **config: Any) -> None:
        self.engine = LLMEngine(model, **config)
        self._channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Channel] = weakref.WeakKeyDictionary()

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> AsyncLLMEngine:
        """The engine of these arguments."""
        return cls(**vars(args))

    async def generate(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yields the output of one prompt as it comes; with ``n`` above 1, that of all choices.

        Raises:
            ValueError: The prompt or a parameter is refused.
            EngineError: The request failed.
        """
        params = sampling_params or SamplingParams()
        channel = self._channel()
        outputs: asyncio.Queue[RequestOutput] = asyncio.Queue()
        native = self.engine._engine
        fields = params._changed_fields()
        if params.structured_outputs is not None:  # compiling a grammar may take seconds
            await asyncio.get_running_loop().run_in_executor(None, native.compile_grammar, fields)
        request_id = native.add_request(prompt if isinstance(prompt, str) else list(prompt), fields, channel.queue)
        channel.attach(request_id, outputs)
        num_open = params.n
        try:
            while num_open > 0:
                output = await outputs.get()
                if output.error is not None:
                    num_open = 0
                    raise EngineError(output.error)
                num_open -= output.finished
                yield output
        finally:
            channel.detach(request_id)
            if num_open > 0:
                with contextlib.suppress(EngineError):  # the engine is closed
                    native.abort(request_id)

    def _channel(self) -> _Channel:
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is None:
            channel = self._channels[loop] = _Channel(self.engine, loop)
        return channel

    def close(self) -> None:
        """As ``LLMEngine.close``; tasks that wait get the finish reason ``"abort"``."""
        for loop, channel in list(self._channels.items()):
            channel.close(loop)
        self.engine.close()

    async def __aenter__(self) -> AsyncLLMEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Channel:
    """The events of one event loop, given to the tasks they belong to."""

    def __init__(self, engine: LLMEngine, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = EventQueue()
        self._engine = engine
        self._outputs: dict[int, asyncio.Queue[RequestOutput]] = {}
        self._descriptor = self.queue.fileno()
        if self._descriptor < 0:
            raise EngineError("no file descriptor is left for the engine's events")
        loop.add_reader(self._descriptor, self._take)

    def attach(self, request_id: int, outputs: asyncio.Queue[RequestOutput]) -> None:
        self._outputs[request_id] = outputs

    def detach(self, request_id: int) -> None:
        self._outputs.pop(request_id, None)

    def _take(self) -> None:
        for event in self._engine._engine.take_events(self.queue, 0.0):
            output = RequestOutput(*event)
            outputs = self._outputs.get(output.request_id)
            if outputs is not None:
                outputs.put_nowait(output)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed():
            loop.remove_reader(self._descriptor)
        for request_id, outputs in self._outputs.items():
            outputs.put_nowait(RequestOutput(request_id, [], True, "abort", error="the engine is closed"))
