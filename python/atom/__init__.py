"""ATOM: a small, fast LLM inference engine.

    from atom import LLMEngine, SamplingParams

    with LLMEngine(model="model.gguf") as engine:
        for output in engine.generate(["Once upon a time"], SamplingParams(max_tokens=32)):
            print(output["text"])

The engine is the same one as in the program ``atom``, in this process, on its own threads.
"""
from typing import TYPE_CHECKING, Any

from atom._atom import EngineError, __version__, set_log_level
from atom.engine_args import EngineArgs
from atom.llm_engine import LLMEngine
from atom.outputs import RequestOutput, Sequence
from atom.sampling_params import SamplingParams
from atom.tokenizer import Tokenizer

if TYPE_CHECKING:
    from atom.async_engine import AsyncLLMEngine

__all__ = [
    "AsyncLLMEngine",
    "EngineArgs",
    "EngineError",
    "LLMEngine",
    "RequestOutput",
    "SamplingParams",
    "Sequence",
    "Tokenizer",
    "__version__",
    "set_log_level",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncLLMEngine":  # brings asyncio, which most programs do without
        from atom.async_engine import AsyncLLMEngine

        return AsyncLLMEngine
    raise AttributeError(f"module 'atom' has no attribute {name!r}")
