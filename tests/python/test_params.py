"""SamplingParams and EngineArgs as dataclasses and flags; the package's types."""
import argparse
import copy
import dataclasses
import pathlib
import pickle
import subprocess
import sys

import pytest

import atom
from atom import EngineArgs, SamplingParams
from atom._atom import engine_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_sampling_params_are_a_dataclass():
    params = SamplingParams(0.5, 10, True, ["x"], top_p=0.9)
    assert params == SamplingParams(temperature=0.5, max_tokens=10, ignore_eos=True, stop_strings=["x"], top_p=0.9)
    assert params != SamplingParams()
    assert repr(SamplingParams()).startswith("SamplingParams(temperature=1.0, max_tokens=64, ignore_eos=False, "
                                             "stop_strings=None, top_p=1.0")
    assert eval(repr(params)) == params
    assert dataclasses.replace(params, seed=3).seed == 3
    assert copy.deepcopy(params) == pickle.loads(pickle.dumps(params)) == params
    with pytest.raises(TypeError):
        SamplingParams(0.5, 10, True, ["x"], 0.9)


def test_engine_args_have_the_flags_of_the_program():
    flags = {flag["name"][2:].replace("-", "_"): flag for flag in engine_flags()}
    defaults = EngineArgs()
    assert sorted(flags) == sorted(field.name for field in dataclasses.fields(EngineArgs))
    for name, flag in flags.items():
        value = getattr(defaults, name)
        if flag["value"] == "on_off":
            assert flag["default"] == ("on" if value else "off")
        elif isinstance(value, list):
            assert flag["default"] == str(value).replace(" ", "")
        elif isinstance(value, bool) or value is None or name == "threads":
            assert flag["value"] in ("switch", "str", "optional_str", "int", "float")
        else:
            assert type(value)(flag["default"]) == value, name


def test_cli_args_in_both_spellings():
    parser = EngineArgs.add_cli_args(argparse.ArgumentParser())
    args = parser.parse_args(["--model", "m", "-tp", "8", "--kv-cache-dtype", "fp8", "--max_model_len=99",
                              "--no-enable_prefix_caching", "--load_dummy", "--cudagraph-capture-sizes", "[1,2]",
                              "--gpu_memory_utilization", "0.5", "--enforce-eager"])
    parsed = EngineArgs.from_cli_args(args)
    assert parsed == EngineArgs(model="m", tensor_parallel_size=8, kv_cache_dtype="fp8", max_model_len=99,
                                enable_prefix_caching=False, load_dummy="empty", cudagraph_capture_sizes=[1, 2],
                                gpu_memory_utilization=0.5, enforce_eager=True)
    assert EngineArgs.from_cli_args(parser.parse_args([])) == EngineArgs()
    with pytest.raises(SystemExit):
        parser.parse_args(["--kv_cache_dtype", "int3"])


def test_values_become_flags():
    args = EngineArgs(model="m", enable_prefix_caching=False, cudagraph_capture_sizes=[1, 4], load_dummy=True,
                      enforce_eager=True, max_model_len=5, trust_remote_code=False)
    assert args._command_line() == ["--model=m", "--enforce-eager", "--no-enable_prefix_caching", "--max-model-len=5",
                                    "--cudagraph-capture-sizes=1,4", "--load_dummy"]
    assert EngineArgs()._command_line() == []


def test_types_are_strict_and_the_stub_is_true(tmp_path):
    package = pathlib.Path(atom.__file__).parent
    assert (package / "py.typed").is_file() and (package / "_atom.pyi").is_file()
    user = tmp_path / "user.py"
    user.write_text("from atom import LLMEngine, SamplingParams\n"
                    "def f(e: LLMEngine) -> str:\n    return str(e.generate(['x'], SamplingParams(0.5))[0]['text'])\n")
    cache = f"--cache-dir={ROOT / 'build' / 'mypy'}"
    check = subprocess.run([sys.executable, "-m", "mypy", "--strict", cache, "-p", "atom"], capture_output=True,
                           text=True, cwd=tmp_path, check=False)
    assert check.returncode == 0, check.stdout
    check = subprocess.run([sys.executable, "-m", "mypy", "--strict", cache, str(user)], capture_output=True, text=True,
                           cwd=tmp_path, check=False)
    assert check.returncode == 0, check.stdout
