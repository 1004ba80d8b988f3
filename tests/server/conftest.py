"""One server for the whole suite: the real binary on a small model. ATOM_BINARY and ATOM_TEST_MODEL override
(the binary must know `serve`; the model must have a chat template, which is given here when it has none)."""
import os
import pathlib
import re
import signal
import subprocess
import time

import openai
import pytest

from raw_http import RawServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("ATOM_BINARY", str(ROOT / "build" / "bin" / "atom"))
MODEL = os.environ.get("ATOM_TEST_MODEL", str(ROOT / "tests" / "golden" / "models" / "llama-gqa-bf16"))
TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_calls %}"
            "{{ m.tool_calls[0].function.arguments.city }}{% endif %}\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")


class Server:
    def __init__(self, *flags, log):
        self.log = open(log, "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [BINARY, "serve", "--model", MODEL, "--host", "127.0.0.1", "--server-port", "0",
             "--chat-template", TEMPLATE, *flags],
            stdout=self.log, stderr=subprocess.STDOUT)
        self.port = self._wait()
        self.base = f"http://127.0.0.1:{self.port}"

    def output(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def _wait(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if found := re.search(r"ready: http://[^ ]*:(\d+)/", self.output()):
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.process.kill()
        pytest.fail("the server did not start: " + self.output()[-1000:])

    def raw(self):
        return RawServer(self.port)

    def metric(self, name, **labels):
        import httpx
        text = httpx.get(self.base + "/metrics").text
        for line in text.splitlines():
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def stop(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    started = []

    def start(*flags):
        server = Server(*flags, log=str(tmp_path_factory.mktemp("server") / "log.txt"))
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(start_server):
    server = start_server("--served-model-name", "tiny")
    yield server
    assert server.process.poll() is None, "the server died: " + server.output()[-2000:]
    assert server.metric("atom:num_sequences_in_flight") == 0
    assert server.metric("atom:kv_cache_free_blocks") == server.metric("atom:kv_cache_blocks")
    assert server.stop() == 0


@pytest.fixture(scope="session")
def client(server):
    return openai.OpenAI(base_url=server.base + "/v1", api_key="none", max_retries=0, timeout=120)
