"""The real binary (ATOM_BINARY, default build/bin/atom) and the demo model (ATOM_DEMO_MODEL) for the suite."""
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("ATOM_BINARY", str(ROOT / "build" / "bin" / "atom"))


@pytest.fixture(scope="session")
def atom():
    """atom("generate", "--help", stdin="...") -> CompletedProcess with text streams."""

    def run(*arguments, stdin="", timeout=120, env=None):
        return subprocess.run([BINARY, *arguments], input=stdin, capture_output=True, text=True,
                              timeout=timeout, env={**os.environ, **(env or {})}, check=False)

    return run


@pytest.fixture(scope="session")
def demo_model():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    default = cache / "atom" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path = pathlib.Path(os.environ.get("ATOM_DEMO_MODEL", str(default)))
    if not path.is_file():
        pytest.fail("the demo model is not there: run scripts/fetch_demo_model.sh")
    return str(path)
