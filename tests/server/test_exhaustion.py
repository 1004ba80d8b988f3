"""What the system runs out of: files, the disk of the log. The server waits, tells, and serves again."""
import os
import resource
import signal
import socket
import subprocess
import time

import httpx

from adversary import GET, TINY, check_good
from conftest import MODEL, TEMPLATE
from raw_http import RawServer, post
from running_server import BINARY, cpu_seconds, wait_until


def test_the_file_limit_is_raised_to_what_the_system_allows(start_server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        server = start_server()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    check_good(server)
    assert server.stop() == 0


def test_out_of_files_the_server_waits_and_serves_again(start_server):
    server = start_server()
    pid = server.process.pid
    check_good(server)
    with server.raw().connect() as held:
        held.send(GET)
        assert held.response()[0] == 200
        limit = len(os.listdir(f"/proc/{pid}/fd")) + 20
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        flood = [server.raw().connect() for _ in range(300)]  # most of them wait in the kernel
        assert wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) >= limit, 5)
        before = cpu_seconds(pid)
        time.sleep(1)
        assert cpu_seconds(pid) - before < 0.3, "out of files the server spins"
        held.send(GET + post("/v1/completions", TINY))  # those inside are served
        assert [held.response()[0], held.response()[0]] == [200, 200]
        for connection in flood:
            connection.socket.close()
        started = time.monotonic()
        check_good(server)
        assert time.monotonic() - started < 5
    assert server.stop() == 0


def test_a_full_disk_of_the_log_stops_nobody():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open("/dev/full", "w") as full:
        process = subprocess.Popen([BINARY, "serve", "--model", MODEL, "--host", "127.0.0.1", "--server-port", str(port),
                                    "--chat-template", TEMPLATE], stdout=full, stderr=full)
    base = f"http://127.0.0.1:{port}"

    def ready():
        try:
            return httpx.get(base + "/health").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        assert wait_until(ready, 60)
        for _ in range(100):
            assert httpx.post(base + "/v1/completions", json=TINY, timeout=60).status_code == 200
        before = cpu_seconds(process.pid)
        time.sleep(0.5)
        assert cpu_seconds(process.pid) - before < 0.2
        metrics = httpx.get(base + "/metrics").text
        assert "atom:log_lines_dropped_total" in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_requests_pipelined_before_a_half_close_end_with_it_and_leave_nothing(server):
    """A client that ends its side is gone: what it still waits for is given up, also what it had sent ahead."""
    connection = RawServer(server.port).connect()
    with connection:
        connection.send(GET * 50 + post("/v1/completions", TINY) * 3)
        connection.socket.shutdown(socket.SHUT_WR)
        answer = connection.read_all()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 200 ")
    assert wait_until(lambda: server.metric("atom:num_sequences_in_flight") == 0)
    check_good(server)
