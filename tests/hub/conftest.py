"""The real binary (ATOM_BINARY, default build/bin/atom) against a hub of our own."""
import os
import pathlib
import subprocess

import pytest

from fake_hub import FakeHub

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("ATOM_BINARY", str(ROOT / "build" / "bin" / "atom"))


@pytest.fixture
def hub():
    server = FakeHub()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "hub"


@pytest.fixture
def environment(hub, cache):
    """Environment of a run: nothing of the user's own hub settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()}
    return {**clean, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HOME": str(cache.parent / "home")}


@pytest.fixture
def inspect(environment):
    """inspect("org/tiny", HF_TOKEN="...") -> CompletedProcess."""

    def run(model, preexec_fn=None, **env):
        return subprocess.run([BINARY, "inspect", "--model", model, "--json"], capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, env={**environment, **env}, preexec_fn=preexec_fn, check=False)

    return run


@pytest.fixture
def program(environment):
    """program("tokenize", "--model", "org/tiny", stdin="a") -> CompletedProcess."""

    def run(*arguments, stdin="", **env):
        return subprocess.run([BINARY, *arguments], input=stdin, capture_output=True, text=True, timeout=60,
                              env={**environment, **env}, check=False)

    return run


@pytest.fixture
def start(environment):
    """As inspect, but running; the caller waits."""

    def run(model, **options):
        return subprocess.Popen([BINARY, "inspect", "--model", model, "--json"], stdin=subprocess.DEVNULL, env=environment,
                                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})

    return run
