"""Servers for the evaluation harness, which runs in this process: on the demo model, and on a tiny checkpoint in float32.
The harness reads tasks from tests/accuracy/tasks and nothing from a network."""
import os
import pathlib
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "server"), str(TESTS / "clients")]
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1",
                  TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")

from demo import NAME, demo_model  # noqa: E402
from running_server import Server  # noqa: E402

TINY = TESTS / "golden" / "models" / "llama-biases-head-dim-f32"


@pytest.fixture(scope="session", autouse=True)
def dataset_cache(tmp_path_factory):
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("huggingface"))


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """start(*flags, model=PATH) -> a Server; at the end none may hold anything."""
    started = []

    def start_one(*flags, model):
        log = str(tmp_path_factory.mktemp("server") / "log.txt")
        started.append(Server(*flags, model=model, log=log))
        return started[-1]

    yield start_one
    try:
        for server in started:
            server.check_idle_and_stop()
    finally:
        for server in started:
            server.kill()


@pytest.fixture(scope="session")
def demo(start):
    return start("--served-model-name", NAME, "--max-model-len", "2048", "--kv-cache-memory-gb", "1", model=demo_model())


@pytest.fixture(scope="session")
def tiny(start):
    return start("--served-model-name", "tiny", model=str(TINY))
