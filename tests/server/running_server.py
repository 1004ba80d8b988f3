"""`atom serve` as a child process on a free loopback port, and its metrics. ATOM_BINARY overrides the program."""
import os
import pathlib
import re
import resource
import signal
import subprocess
import time
import urllib.request

import pytest

from raw_http import RawServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("ATOM_BINARY", str(ROOT / "build" / "bin" / "atom"))


class Server:
    def __init__(self, *flags, model, log, env=None):
        self.log = open(log, "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [BINARY, "serve", "--model", model, "--host", "127.0.0.1", "--server-port", "0", *flags],
            stdout=self.log, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
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

    def healthy(self):
        try:
            with urllib.request.urlopen(self.base + "/health", timeout=20) as answer:
                return answer.status == 200
        except OSError:
            return False

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

    def cpu_seconds(self):
        return cpu_seconds(self.process.pid)

    def holds_nothing(self):
        """Whether no sequence is left and every KV block is free, within some seconds."""
        def empty():
            in_flight, free, blocks = self.metrics(
                ("atom:num_sequences_in_flight", {}), ("atom:kv_cache_free_blocks", {}), ("atom:kv_cache_blocks", {}))
            return in_flight == 0 and free == blocks
        return wait_until(empty)

    def metric(self, name, **labels):
        return self.metrics((name, labels))[0]

    def metrics(self, *wanted):
        """Values of (name, labels), all of one reading."""
        with urllib.request.urlopen(self.base + "/metrics", timeout=60) as answer:
            text = answer.read().decode()
        return [metric_in(text, name, **labels) for name, labels in wanted]

    def stop(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(60)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def check_idle_and_stop(self):
        """Nothing is left of any request, and the server ends as it should."""
        assert self.process.poll() is None, "the server died: " + self.output()[-2000:]
        assert self.holds_nothing()
        assert self.stop() == 0


def metric_in(text, name, **labels):
    for line in text.splitlines():
        if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    raise KeyError(name)


def wait_until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    return False


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def allow_files(wanted):
    """This process may hold that many files, if the system lets it; how many it may hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
