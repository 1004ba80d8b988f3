"""What an operator sees: logs, health, the queue limit, drain, signals, a log nobody reads, an idle process."""
import concurrent.futures
import gzip
import json
import os
import re
import signal
import subprocess
import time

import httpx

from conftest import BINARY, MODEL, TEMPLATE
from raw_http import RawServer, post
from running_server import wait_until

TINY = {"prompt": "a b", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
ENDLESS = {"prompt": "a b", "max_tokens": 480, "temperature": 0, "ignore_eos": True, "stream": True}


def lines_of(server, request_id):
    """The log lines (JSON) of a request; the log is written by a thread of its own."""
    def find():
        lines = [json.loads(line) for line in server.output().splitlines()]
        return [line for line in lines if line.get("id") == request_id]
    return wait_until(find) or []


def test_one_json_line_per_request(start_server):
    server = start_server("--log-format", "json", "--served-model-name", 'x"}\n{"level":"error"', "--max-num-seqs", "1")
    url = server.base + "/v1/completions"
    httpx.post(url, json={**TINY, "prompt": "sekret"}, headers={"x-request-id": "whole"})
    with httpx.stream("POST", url, json={**TINY, "stream": True, "n": 2}, headers={"x-request-id": "stream"}) as answer:
        size = len(answer.read())
    httpx.post(url, json={**TINY, "temperature": 5}, headers={"x-request-id": "refused"})
    httpx.get(server.base + "/a%22,%22level%22:%22error%5c%c3%a9%ff", headers={"x-request-id": "path"})
    whole, = lines_of(server, "whole")
    assert whole["level"] == "info" and whole["message"] == "request" and re.match(r"\d{4}-.*T.*Z$", whole["time"])
    assert (whole["method"], whole["path"], whole["status"], whole["client"]) == ("POST", "/v1/completions", 200, "127.0.0.1")
    assert whole["prompt_tokens"] > 0 and whole["completion_tokens"] == 3 and whole["finish_reason"] == "length"
    assert 0 < whole["ttft_ms"] <= whole["duration_ms"] and whole["bytes"] > 100
    stream, = lines_of(server, "stream")
    assert stream["bytes"] == size and stream["finish_reason"] == "length,length" and stream["completion_tokens"] == 6
    refused, = lines_of(server, "refused")
    assert refused["status"] == 400 and "prompt_tokens" not in refused
    path, = lines_of(server, "path")
    assert path["status"] in (400, 404) and path["level"] == "info" and path["path"].startswith('/a","level":"error')
    with server.raw().connect() as connection:
        connection.send(post("/v1/completions", {**ENDLESS, "n": 64}, "X-Request-Id: gone"))  # one after the other
        connection._until(b"data: ")
    gone, = lines_of(server, "gone")
    assert gone["status"] == 499 and gone["finish_reason"].endswith("abort")
    assert "sekret" not in server.output()
    httpx.get(server.base + "/health", headers={"x-request-id": "polled"})
    httpx.get(server.base + "/metrics", headers={"x-request-id": "polled"})
    assert server.stop() == 0
    assert "polled" not in server.output()
    for line in server.output().splitlines():
        assert json.loads(line)["level"] in ("info", "warning")


def test_request_ids_are_honoured_or_replaced(server):
    def answered(value):
        with server.raw().connect() as connection:
            connection.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Request-Id: " + value + b"\r\n\r\n")
            return connection.response()[1]["x-request-id"]
    assert answered(b"abc-123_{x}") == "abc-123_{x}"
    for bad in (b"", b"a b", b"\xff\xfe", b"a\tb", b"x" * 129):
        assert re.fullmatch("[0-9a-f]{32}", answered(bad)), bad


def test_text_log_levels_and_prompts(start_server):
    server = start_server("--log-level", "debug", "--log-prompts")
    httpx.post(server.base + "/v1/completions", json={**TINY, "prompt": 'quo"ted\nlines'}, headers={"x-request-id": "p"})
    httpx.get(server.base + "/health", headers={"x-request-id": "polled"})
    assert server.stop() == 0
    line, = [line for line in server.output().splitlines() if " id=p " in line]
    assert line.startswith("INFO ") and " request method=POST path=/v1/completions status=200 " in line
    assert 'prompt="' in line and 'quo\\"ted' in line and "\\u000a" in line
    assert any(line.startswith("DEBUG ") and "id=polled" in line for line in server.output().splitlines())
    quiet = start_server("--no-access-log")
    httpx.post(quiet.base + "/v1/completions", json=TINY)
    assert quiet.stop() == 0
    assert "method=POST" not in quiet.output()


def test_a_log_that_nobody_reads_stops_nobody():
    """stderr is a pipe of 4 KiB whose reader stops reading after the start."""
    reader, writer = os.pipe()
    import fcntl
    fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ
    process = subprocess.Popen([BINARY, "serve", "--model", MODEL, "--host", "127.0.0.1", "--server-port", "0",
                                "--chat-template", TEMPLATE], stderr=writer)
    os.close(writer)
    try:
        seen = b""
        while not (found := re.search(rb"ready: http://[^ ]*:(\d+)/", seen)):
            seen += os.read(reader, 4096)
        base = f"http://127.0.0.1:{int(found[1])}"
        with httpx.Client() as client:
            started = time.monotonic()
            for i in range(9000):  # more than the pipe and the queue hold
                assert client.get(base + "/version").status_code == 200
                assert time.monotonic() - started < 60
            assert client.post(base + "/v1/completions", json=TINY).status_code == 200
            metrics = client.get(base + "/metrics").text
        dropped = float(re.search(r"^atom:log_lines_dropped_total\{.*\} (\S+)$", metrics, re.M)[1])
        assert dropped > 0
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert process.wait(20) == 0
        assert time.monotonic() - started < 10
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def test_queue_limit_answers_at_once_and_the_accepted_complete(start_server):
    server = start_server("--max-num-seqs", "4", "--max-queued-requests", "4")

    def ask(i):
        started = time.monotonic()
        answer = httpx.post(server.base + "/v1/completions", json={**ENDLESS, "stream": False, "prompt": f"a {i}"}, timeout=60)
        return answer, time.monotonic() - started

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    good = [a for a, _ in answers if a.status_code == 200]
    refused = [(a, t) for a, t in answers if a.status_code == 503]
    assert len(good) >= 8 and len(refused) >= 1 and len(good) + len(refused) == 40
    for answer in good:
        assert answer.json()["usage"]["completion_tokens"] == 480
    for answer, _ in refused:
        assert answer.headers["retry-after"] == "1" and answer.json()["error"]["code"] == "queue_full"
    assert server.metric("atom:requests_rejected_total", reason="queue_full") == len(refused)
    assert server.stop() == 0


def test_second_signal_ends_at_once(start_server):
    server = start_server("--shutdown-timeout", "60", "--max-num-seqs", "1")
    with server.raw().connect() as stream:
        stream.send(post("/v1/completions", {**ENDLESS, "n": 64}))  # 64 answers, one after the other
        stream._until(b"data: ")
        server.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: httpx.get(server.base + "/health").status_code == 503)
        health = httpx.get(server.base + "/health")
        assert health.json()["error"]["code"] == "draining"
        assert server.metric("atom:draining") == 1
        assert httpx.post(server.base + "/v1/completions", json=TINY).headers["retry-after"] == "1"
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(5) == 130


def test_shutdown_timeout_ends_what_is_left(start_server):
    server = start_server("--shutdown-timeout", "0.2", "--max-num-seqs", "1")
    with server.raw().connect() as stream:
        stream.send(post("/v1/completions", {**ENDLESS, "n": 64}))
        stream._until(b"data: ")
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        rest = stream.read_all()
        assert b'"error"' in rest and b"data: [DONE]" in rest  # told, not cut off
        assert server.process.wait(20) == 0
        assert time.monotonic() - started < 10


def test_debug_and_profile_routes(server):
    stats = httpx.get(server.base + "/debug/mtp_stats").json()
    assert stats["enabled"] is False and {"average_tokens_per_forward", "acceptance_rate"} <= set(stats)
    for path in ("/start_profile", "/stop_profile"):  # a server that was given no folder
        for body in (b"", b'{"prompt":"a","stream":true}', b"not JSON"):
            answer = httpx.post(server.base + path, content=body)
            assert answer.status_code == 400
            wanted = "--torch-profiler-dir" if path == "/start_profile" else "not running"
            assert wanted in answer.json()["error"]["message"]
        assert httpx.get(server.base + path).headers["allow"] == "POST, OPTIONS"


def test_a_trace_of_running_requests(start_server, tmp_path):
    server = start_server("--torch-profiler-dir", str(tmp_path / "traces"))
    body = {**TINY, "max_tokens": 8}
    for output_dir, where in ((None, "rank_0"), ("first/second", "first/second/rank_0")):
        profile = body if output_dir is None else {**body, "output_dir": output_dir}
        started = httpx.post(server.base + "/start_profile", json=profile)
        assert started.status_code == 200 and started.json()["status"] == "success"
        assert httpx.post(server.base + "/start_profile", json=body).status_code == 400
        assert httpx.post(server.base + "/v1/completions", json=body, timeout=60).status_code == 200
        stopped = httpx.post(server.base + "/stop_profile", json=body, timeout=60).json()
        assert stopped["status"] == "success"
        files = list((tmp_path / "traces" / where).iterdir())
        assert [str(f) for f in files] == stopped["traces"] and files[0].name.endswith(".pt.trace.json.gz")
        events = json.loads(gzip.decompress(files[0].read_bytes()))["traceEvents"]
        names = [e["name"] for e in events if e.get("cat") == "user_annotation"]
        assert sum(n.startswith("prefill[bs=1 tok=") and " ctx=" in n for n in names) == 1
        assert names.count("decode[bs=1 tok=1 d=0 spec=0]") == 7
        assert sum(e["name"] == "atom::linear" for e in events) > 0
    for bad in ("../outside", "/etc", 5):
        refused = httpx.post(server.base + "/start_profile", json={"output_dir": bad})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "output_dir"
    assert httpx.post(server.base + "/stop_profile").status_code == 400


def test_models_by_id_with_slash_raw_or_encoded(start_server):
    server = start_server("--served-model-name", "org/tiny", "--served-model-name", "other")
    for path in ("/v1/models/org/tiny", "/v1/models/org%2Ftiny", "/v1/models/org%2ftiny"):
        answer = httpx.get(server.base + path)
        assert answer.status_code == 200 and answer.json()["id"] == "org/tiny" and answer.json()["max_model_len"] > 0
    raw = RawServer(server.port)
    with raw.connect() as connection:
        connection.send(b"GET /v1/models/org%2Ftiny HTTP/1.1\r\nHost: a\r\n\r\nHEAD /v1/models/org/tiny HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, body = connection.response()
        assert status == 200 and json.loads(body)["root"] == "org/tiny"
    missing = httpx.get(server.base + "/v1/models/org/none")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"
    assert server.stop() == 0


def test_an_idle_server_uses_no_cpu(start_server):
    server = start_server()
    httpx.post(server.base + "/v1/completions", json=TINY)
    with server.raw().connect():  # an idle connection, too
        time.sleep(0.5)
        before = server.cpu_seconds()
        time.sleep(3)
        used = server.cpu_seconds() - before
    assert used <= 0.03, f"{used} s of CPU in 3 s"
    assert server.stop() == 0
