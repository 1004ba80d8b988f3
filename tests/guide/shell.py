"""A terminal in which the blocks of a page are typed one after the other, and a second one for its servers.

What a block assigns is there in the next one. Documented substitutions, and no others: port 8000 and 8001 become free
ports, 0.0.0.0 becomes 127.0.0.1, and a server that says no port or host gets these.
"""
import dataclasses
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVER = re.compile(r"(atom serve|-m atom serve|atom\.entrypoints\.openai_server)(?=\s)")


@dataclasses.dataclass(frozen=True)
class Finished:
    status: int
    output: str


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Shell:
    def __init__(self, folder, environment):
        self.folder = folder
        self.environment = {**os.environ, **environment}
        self.environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        self.ports = dict(zip(("8000", "8001"), free_ports(2)))
        self.state = folder / ".state"
        self.count = 0
        self.server = None

    def substitute(self, text):
        text = re.sub(r"(?<!\d)800[01](?!\d)", lambda match: self.ports[match[0]], text)
        text = text.replace("0.0.0.0", "127.0.0.1")
        port = re.search(r"--server-port[ =]", text)
        host = re.search(r"--host[ =]", text)
        extra = ("" if port else f" --server-port {self.ports['8000']}") + ("" if host else " --host 127.0.0.1")
        return SERVER.sub(lambda match: match[0] + extra, text)

    def run(self, text, language="bash", timeout=60):
        """Types a block; its exit status (bash stops at the first command that fails) and what it printed."""
        log = self.folder / f".block{self.count}.log"
        with open(log, "wb") as out:
            process = self._start(text, language, out)
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = f"none within {timeout} s"
        return Finished(status, log.read_text(errors="replace"))

    def start_server(self, text, seconds=60):
        """Types a block whose last command is a server, in the second terminal; waits until it can be asked.

        Returns None, or Finished where it ended instead.
        """
        self.stop_server()
        log = self.folder / f".block{self.count}.log"
        with open(log, "wb") as out:
            self.server = self._start(text, "bash", out)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.server.poll() is not None:
                finished, self.server = Finished(self.server.returncode, log.read_text(errors="replace")), None
                return finished
            if self._healthy():
                return None
            time.sleep(0.02)
        raise TimeoutError(log.read_text(errors="replace"))

    def stop_server(self):
        """Ctrl-C in the second terminal."""
        if self.server is None:
            return
        process, self.server = self.server, None
        os.killpg(process.pid, signal.SIGINT)
        try:
            status = process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert status == 0, f"the server ended with status {status}"

    def _start(self, text, language, out):
        self.count += 1
        if language == "python":
            script = self.folder / f".block{self.count}.py"
            script.write_text(self.substitute(text), encoding="utf-8")
            text = f"python {script.name}"
        script = self.folder / f".block{self.count}.sh"
        script.write_text(f"set -eo pipefail\n[ ! -f {self.state} ] || source {self.state}\n"
                          f"trap 'status=$?; export -p >{self.state}; exit $status' EXIT\nset -a\n{self.substitute(text)}\n",
                          encoding="utf-8")
        return subprocess.Popen(["bash", str(script)], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def _healthy(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['8000']}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False
