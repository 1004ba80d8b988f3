"""The installed package, the program that came with it, and the demo model (ATOM_DEMO_MODEL)."""
import os
import pathlib
import subprocess
import sys

import pytest

from atom import LLMEngine

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT = 1024  # tokens; small, so that an engine starts fast


def default_model():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return str(cache / "atom" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def demo_model():
    path = os.environ.get("ATOM_DEMO_MODEL", default_model())
    if not os.path.isfile(path):
        pytest.fail("the demo model is not there: run scripts/fetch_demo_model.sh")
    return path


@pytest.fixture(scope="session")
def engine(demo_model):
    with LLMEngine(demo_model, max_model_len=CONTEXT, device="cpu", kv_cache_memory_gb=0.25) as engine:
        yield engine


@pytest.fixture
def run_python(demo_model):
    """run_python(code or [arguments], ...) -> CompletedProcess of a fresh interpreter; MODEL is the demo model."""

    def run(code, *arguments, timeout=60, **options):
        command = ["-c", f"MODEL = {demo_model!r}\n{code}"] if isinstance(code, str) else code
        return subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, timeout=timeout,
                              check=False, cwd="/", **options)

    return run
