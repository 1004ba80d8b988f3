"""Headless Chromium (Debian's package, or ATOM_CHROMIUM) in front of the real binary on the demo model."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from cdp import Browser

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("ATOM_BINARY", str(ROOT / "build" / "bin" / "atom"))


def demo_model():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    default = cache / "atom" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path = pathlib.Path(os.environ.get("ATOM_DEMO_MODEL", str(default)))
    if not path.is_file():
        pytest.fail("the demo model is not there: run scripts/fetch_demo_model.sh")
    return str(path)


class Server:
    def __init__(self, *flags, log):
        self.log = pathlib.Path(log)
        with open(log, "w") as out:
            self.process = subprocess.Popen(
                [BINARY, "serve", "--model", demo_model(), "--served-model-name", "SmolLM2-135M",
                 "--host", "127.0.0.1", "--server-port", "0", *flags], stdout=out, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while not (found := re.search(r"ready: (http://[^ ]*:\d+)/", self.log.read_text(errors="replace"))):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                pytest.fail("the server did not start: " + self.log.read_text(errors="replace")[-1000:])
            time.sleep(0.05)
        self.url = found[1]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    started = []

    def start(*flags):
        started.append(Server(*flags, log=str(tmp_path_factory.mktemp("ui") / "log.txt")))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(start_server):
    server = start_server()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    names = [os.environ.get("ATOM_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    program = next((path for name in names if name and (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium: install it (apt-get install chromium) or set ATOM_CHROMIUM")
    with Browser(program, str(tmp_path_factory.mktemp("chromium"))) as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """open_page(url) -> Page, which must have been silent: no console error, no refused resource or script."""
    pages = []

    def open_(url, **emulate):
        page = browser.page()
        pages.append(page)
        page.emulate(**emulate)
        page.goto(url)
        return page

    yield open_
    for page in pages:
        page.close()
        assert [p for p in page.problems if page.expected not in p] == []
