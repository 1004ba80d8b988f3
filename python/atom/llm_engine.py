"""LLMEngine: a model in this process."""
from __future__ import annotations

import atexit
import os
import weakref
from collections import deque
from collections.abc import Iterable, Sequence as AbstractSequence
from types import TracebackType
from typing import Any, NoReturn, Union

from atom import _atom
from atom.engine_args import EngineArgs
from atom.outputs import RequestOutput, Sequence, StreamCallback
from atom.sampling_params import SamplingParams
from atom.tokenizer import Tokenizer

Prompt = Union[str, AbstractSequence[int]]

_live: weakref.WeakSet[LLMEngine] = weakref.WeakSet()


class LLMEngine:
    """A loaded model with its scheduler and KV cache, driven by native threads.

    Args:
        model: Directory, ``.gguf`` file or hub name.
        config: Any field of ``EngineArgs``, such as ``kv_cache_dtype="fp8"`` or ``max_model_len=4096``.

    Raises:
        ValueError: A value is wrong, or not supported yet.
        FileNotFoundError: The model is not there.
        EngineError: Memory, the network or the device failed.

    Usable as a context manager. ``generate`` may be called from several threads at once, and beside
    ``add_request`` and ``step``, which belong to one thread. After ``os.fork`` the child cannot use it.
    """

    def __init__(self, model: str | os.PathLike[str] = EngineArgs.model, **config: Any) -> None:
        self.args = EngineArgs(model=os.fspath(model), **config)
        self._engine = _atom.Engine(self.args._command_line())
        self._queue = _atom.EventQueue()
        self._open: dict[int, _OpenRequest] = {}
        self._events: deque[tuple[Any, ...]] = deque()
        self._completed: list[Sequence] = []
        self.tokenizer = Tokenizer(self._engine)
        _live.add(self)

    # --- many prompts at once ---

    def generate(
        self,
        prompts: Prompt | AbstractSequence[Prompt],
        sampling_params: SamplingParams | AbstractSequence[SamplingParams] | None = None,
    ) -> list[dict[str, Any]]:
        """Completes all prompts and returns when the last one is done.

        Args:
            prompts: Texts or lists of token ids; a single one may stand alone.
            sampling_params: One for all, or one for each prompt.

        Returns:
            One dict per answer, in the order of the prompts (``n`` in a row for each), with ``text``, ``token_ids``,
            ``latency``, ``finish_reason``, ``num_tokens_input``, ``num_tokens_output``, ``ttft`` and ``tpot`` (times
            in seconds); with ``logprobs`` and ``prompt_logprobs`` when asked for.

        Raises:
            ValueError: A prompt does not fit the context, or a parameter is out of range; nothing was generated.
            EngineError: A request failed.
            KeyboardInterrupt: Ctrl-C; what ran was aborted, and the engine can be used further.
        """
        inputs = _as_prompts(prompts)
        params = _as_params(sampling_params, len(inputs))
        if not inputs:
            return []
        return self._engine.generate(inputs, params)

    def chat(
        self,
        messages: Iterable[dict[str, Any]],
        sampling_params: SamplingParams | None = None,
        **template_variables: Any,
    ) -> dict[str, Any]:
        """Answers one chat: ``generate`` over the model's chat template."""
        prompt = self.tokenizer.apply_chat_template(messages, **template_variables)
        ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        return self.generate([ids], sampling_params)[0]

    # --- requests that come and go ---

    def add_request(
        self,
        prompt_or_tokens_list: Prompt | AbstractSequence[Prompt],
        sampling_params_list: SamplingParams | AbstractSequence[SamplingParams] | None = None,
        stream_callback: StreamCallback | AbstractSequence[StreamCallback | None] | None = None,
    ) -> list[int]:
        """Starts requests and returns at once with their ids.

        Args:
            prompt_or_tokens_list: As in ``generate``.
            sampling_params_list: One for all, or one for each prompt.
            stream_callback: Called by ``step()``, in the thread that calls it, with a ``RequestOutput`` for every
                piece of output; one for all, or one for each prompt. What it raises ends its request and comes out
                of ``step()``.

        Raises:
            ValueError: A prompt or parameter is refused; none of the requests runs then.
        """
        prompts = _as_prompts(prompt_or_tokens_list)
        params = _as_params(sampling_params_list, len(prompts))
        callbacks = _as_callbacks(stream_callback, len(prompts))
        ids: list[int] = []
        try:
            for i, prompt in enumerate(prompts):
                fields = params[0 if len(params) == 1 else i]
                ids.append(self._engine.add_request(prompt, fields, self._queue))
                self._open[ids[-1]] = _OpenRequest(ids[-1], int(fields.get("n", 1)), callbacks[i])
        except BaseException as error:
            for request_id in ids:
                self._drop(request_id)
            if isinstance(error, (ValueError, TypeError)) and len(prompts) > 1:
                message = str(error).removeprefix("prompt 0: ")
                raise type(error)(f"prompt {len(ids)}: {message}") from None
            raise
        return ids

    def step(self, timeout: float | None = None) -> list[Sequence]:
        """Waits for output, hands it to the callbacks, and returns the answers that it completed.

        Args:
            timeout: Seconds to wait for output; None waits as long as requests run. Without any it returns at once.

        Raises:
            BaseException: What a callback raised. Its request was aborted; the others go on with the next call,
                and nothing they produced is lost.
        """
        if not self._completed and not self._events and self._open:
            self._events.extend(self._engine.take_events(self._queue, -1.0 if timeout is None else timeout))
        while self._events:
            output = RequestOutput(*self._events.popleft())
            request = self._open.get(output.request_id)
            if request is None:
                continue  # was dropped
            self._completed += request.add(output)
            if request.num_unfinished == 0:
                del self._open[output.request_id]
            if request.callback is None:
                continue
            try:
                request.callback(output)
            except BaseException:
                self._drop(output.request_id)
                raise
        completed, self._completed = self._completed, []
        return completed

    def is_finished(self) -> bool:
        """True when nothing of ``add_request`` is left: no request runs and ``step()`` has returned all answers."""
        return not self._open and not self._completed

    def abort(self, request_ids: int | Iterable[int]) -> None:
        """Ends requests early; ``step()`` returns what they had, with the finish reason ``"abort"``. Unknown ids
        are ignored."""
        for request_id in [request_ids] if isinstance(request_ids, int) else request_ids:
            if request_id in self._open:
                self._engine.abort(request_id)

    # --- measuring ---

    def start_profile(self, output_dir: str | os.PathLike[str] = "") -> None:
        """Records what host and device do until ``stop_profile()``.

        Args:
            output_dir: A folder below ``torch_profiler_dir``; that one itself by default.

        Raises:
            ValueError: The engine was created without ``torch_profiler_dir`` (and ``ATOM_TORCH_PROFILER_DIR`` is not
                set), the folder is not below it, or a capture is running.
        """
        self._engine.start_profile(os.fspath(output_dir))

    def stop_profile(self) -> list[str]:
        """Writes the trace (``rank_0/*.pt.trace.json.gz``) and returns its path; returns when it is complete."""
        return self._engine.stop_profile()

    def print_mtp_statistics(self) -> None:
        """Prints how many drafted tokens (``method="mtp"`` or ``"ngram"``) were accepted."""
        stats = self.stats()
        if not stats["speculative"]:
            print("MTP Statistics: speculative decoding is off")
            return
        print("MTP Statistics:")
        print(f"  Total draft tokens: {stats['total_draft_tokens']}")
        print(f"  Accepted tokens:    {stats['total_accepted_tokens']}")
        print(f"  Acceptance rate:    {stats['acceptance_rate']:.2%}")

    def stats(self) -> dict[str, Any]:
        """Running and waiting requests, cache blocks, and totals since the start."""
        return self._engine.stats()

    @property
    def max_model_len(self) -> int:
        """Longest prompt and answer together, in tokens."""
        return self._engine.max_model_len

    # --- life ---

    def close(self) -> None:
        """Aborts what runs, stops the threads and frees the memory. May be called again."""
        self._engine.close()
        self._open.clear()
        self._events.clear()
        self._completed.clear()
        _live.discard(self)

    def __enter__(self) -> LLMEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an LLMEngine has threads and memory of this process and cannot be pickled: create one in "
                        "each process that needs it")

    def __repr__(self) -> str:
        return f"LLMEngine(model={self.args.model!r})"

    def _drop(self, request_id: int) -> None:
        """Forgets a request; events of it that still come are skipped."""
        if self._open.pop(request_id, None) is not None:
            self._engine.abort(request_id)
        self._completed = [sequence for sequence in self._completed if sequence.id != request_id]


class _OpenRequest:
    """A request that runs, and its choices as far as they have come."""

    def __init__(self, request_id: int, n: int, callback: StreamCallback | None) -> None:
        self.choices = [Sequence(id=request_id, index=i) for i in range(n)]
        self.num_unfinished = n
        self.callback = callback

    def add(self, output: RequestOutput) -> list[Sequence]:
        """Returns the choices that `output` completes."""
        if output.index < 0:  # the request failed as a whole
            ended = [choice for choice in self.choices if choice.finish_reason is None]
        else:
            ended = [self.choices[output.index]]
        for choice in ended:
            choice._add(output)
        if not output.finished:
            return []
        self.num_unfinished -= len(ended)
        return ended


def _as_prompts(prompts: Prompt | AbstractSequence[Prompt]) -> list[Any]:
    if isinstance(prompts, str):
        return [prompts]
    items = list(prompts)
    return [items] if items and isinstance(items[0], int) else items


def _as_params(
    params: SamplingParams | AbstractSequence[SamplingParams] | None, num_prompts: int
) -> list[dict[str, Any]]:
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params._changed_fields()]
    items = list(params)
    for item in items:
        if not isinstance(item, SamplingParams):
            raise TypeError(f"sampling_params: expected SamplingParams, not {type(item).__name__}")
    if len(items) != num_prompts:
        raise ValueError(f"{num_prompts} prompts but {len(items)} sampling parameters")
    return [item._changed_fields() for item in items]


def _as_callbacks(
    callback: StreamCallback | AbstractSequence[StreamCallback | None] | None, num_prompts: int
) -> list[StreamCallback | None]:
    if callback is None or callable(callback):
        return [callback] * num_prompts
    callbacks = list(callback)
    if len(callbacks) != num_prompts:
        raise ValueError(f"{num_prompts} prompts but {len(callbacks)} callbacks")
    return callbacks


def _close_all() -> None:
    for engine in list(_live):
        engine.close()
    if _atom.loader_left_behind():
        # Ctrl-C ended the wait for a model; its loading thread must not run into the end of the process.
        os._exit(130)


atexit.register(_close_all)
