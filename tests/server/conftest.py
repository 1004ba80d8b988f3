"""One server for the whole suite: the real binary on a small model. ATOM_BINARY and ATOM_TEST_MODEL override
(the binary must know `serve`; the model must have a chat template, which is given here when it has none)."""
import os

import openai
import pytest

from running_server import BINARY, ROOT, Server  # noqa: F401
MODEL = os.environ.get("ATOM_TEST_MODEL", str(ROOT / "tests" / "golden" / "models" / "llama-gqa-bf16"))
TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_calls %}"
            "{{ m.tool_calls[0].function.arguments.city }}{% endif %}\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    started = []

    def start(*flags):
        server = Server("--chat-template", TEMPLATE, *flags, model=MODEL, log=str(tmp_path_factory.mktemp("server") / "log.txt"))
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def server(start_server):
    server = start_server("--served-model-name", "tiny")
    yield server
    server.check_idle_and_stop()


@pytest.fixture(scope="session")
def client(server):
    return openai.OpenAI(base_url=server.base + "/v1", api_key="none", max_retries=0, timeout=120)
