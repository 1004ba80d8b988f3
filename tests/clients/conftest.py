"""One server for all client suites: the real program on the demo model, as `make run` starts it."""
import pathlib
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "server"), str(TESTS / "clients")]

from demo import NAME, demo_model  # noqa: E402
from running_server import Server  # noqa: E402


@pytest.fixture(scope="session")
def start_demo(tmp_path_factory):
    started = []

    def start(*flags, **options):
        log = str(tmp_path_factory.mktemp("demo") / "log.txt")
        started.append(Server("--served-model-name", NAME, *flags, model=demo_model(), log=log, **options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def demo(start_demo):
    server = start_demo("--max-model-len", "2048", "--kv-cache-memory-gb", "1")
    yield server
    server.check_idle_and_stop()
