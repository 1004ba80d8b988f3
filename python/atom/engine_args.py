"""EngineArgs: the flags of the engine as a dataclass and as command-line arguments.

Names, help, choices and checks are the program's own table (``atom serve --help``): the native module hands it out,
and every value goes through it. Here are the types and defaults, for editors and type checkers.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from atom._atom import engine_flags

if TYPE_CHECKING:
    from atom.llm_engine import LLMEngine


@dataclass
class EngineArgs:
    """What an engine is made of; every flag of the serving guide. Values are checked by ``create_engine``."""

    model: str = "Qwen/Qwen3-0.6B"
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    enforce_eager: bool = False
    enable_prefix_caching: bool = True
    port: int = 8006
    kv_cache_dtype: str = "bf16"
    block_size: int = 16
    max_model_len: int | None = None
    max_num_batched_tokens: int = 16384
    max_num_seqs: int = 512
    gpu_memory_utilization: float = 0.9
    scheduler_delay_factor: float = 0.0
    cudagraph_capture_sizes: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 48, 64, 128, 256])
    level: int = 3
    load_dummy: str | bool | None = None
    enable_expert_parallel: bool = False
    enable_dp_attention: bool = False
    torch_profiler_dir: str | None = None
    method: str | None = None
    num_speculative_tokens: int | None = None  # 1, with ngram 5
    prompt_lookup_min: int | None = None
    prompt_lookup_max: int | None = None
    speculative_config: str | dict[str, Any] | None = None  # the four above as one object
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    deterministic: bool = False
    threads: int = 0
    kv_cache_memory_gb: float | None = None

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Adds every engine flag, in kebab-case and snake_case, to `parser`, and returns it."""
        defaults = EngineArgs()
        groups: dict[str, Any] = {}
        for flag in engine_flags():
            group = groups.setdefault(flag["group"], None) or parser.add_argument_group(flag["group"])
            groups[flag["group"]] = group
            _add_flag(group, flag, getattr(defaults, _field_name(flag)))
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> EngineArgs:
        """The engine's part of parsed arguments; others are left alone."""
        return cls(**{f.name: getattr(args, f.name) for f in fields(cls) if hasattr(args, f.name)})

    def create_engine(self) -> LLMEngine:
        """Loads the model.

        Raises:
            ValueError: A value is wrong, or not supported yet.
            FileNotFoundError: The model is not there.
            EngineError: Memory, the network or the device failed.
        """
        from atom.llm_engine import LLMEngine

        return LLMEngine(**{f.name: getattr(self, f.name) for f in fields(self)})

    def _command_line(self) -> list[str]:
        """The flags that say the same; only what differs from the defaults."""
        defaults = EngineArgs()
        rows = {_field_name(flag): flag for flag in engine_flags()}
        out: list[str] = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value != getattr(defaults, f.name) or type(value) is not type(getattr(defaults, f.name)):
                out += _as_flag(f.name, rows[f.name], value)
        return out


def _field_name(flag: dict[str, Any]) -> str:
    return str(flag["name"])[2:].replace("-", "_")


def _as_flag(name: str, flag: dict[str, Any], value: object) -> list[str]:
    kind, option = flag["value"], flag["name"]
    if kind in ("switch", "on_off"):
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected a bool, not {type(value).__name__}")
        if kind == "switch":
            return [option] if value else []
        return [option if value else "--no-" + option[2:]]
    if value is None or (value is False and kind == "optional_str"):
        return []
    if value is True and kind == "optional_str":
        return [option]
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected {kind}, not bool")
    if kind == "int_list":
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name}: expected a list of int, not {type(value).__name__}")
        return [f"{option}={','.join(map(str, value))}"]
    if name == "speculative_config" and isinstance(value, dict):
        import json  # few need it: importing atom stays cheap

        value = json.dumps(value)
    if hasattr(value, "__fspath__"):
        value = value.__fspath__()
    if kind == "int" and hasattr(value, "__index__"):
        value = value.__index__()
    expected: tuple[type, ...] = {"int": (int,), "float": (int, float)}.get(kind, (str,))
    if not isinstance(value, expected):
        raise TypeError(f"{name}: expected {expected[-1].__name__}, not {type(value).__name__}")
    return [f"{option}={value}"]


def _int_list(text: str) -> list[int]:
    return [int(item) for item in text.strip("[]").split(",") if item.strip()]


_TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "int_list": _int_list}


def _add_flag(group: Any, flag: dict[str, Any], default: object) -> None:
    name: str = flag["name"]
    spellings = list(dict.fromkeys([name, "--" + name[2:].replace("_", "-"), "--" + name[2:].replace("-", "_")]))
    if flag["alias"]:
        spellings.insert(0, flag["alias"])
    shown_default = f" [{flag['default']}]" if flag["default"] else ""
    common = {"dest": _field_name(flag), "default": default, "help": (flag["help"] + shown_default).replace("%", "%%")}
    if flag["value"] == "switch":
        group.add_argument(*spellings, action="store_true", **common)
    elif flag["value"] == "on_off":
        group.add_argument(*spellings, action="store_true", **common)
        negated = ["--no-" + spelling[2:] for spelling in spellings if spelling.startswith("--")]
        group.add_argument(*negated, action="store_false", dest=common["dest"], default=default, help=argparse.SUPPRESS)
    else:
        if flag["choices"]:
            common["choices"] = flag["choices"]
        if flag["value"] == "optional_str":
            common |= {"nargs": "?", "const": flag["implied"]}
        group.add_argument(*spellings, type=_TYPES.get(flag["value"], str), metavar=flag["metavar"] or None, **common)
