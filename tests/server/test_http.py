"""How HTTP is spoken: methods and paths, pipelining, keep-alive, deadlines, keys, drain. What must be refused is in
framing.py and test_wire_robustness.py."""
import json
import signal
import socket
import subprocess
import time

import httpx
import pytest

from adversary import GET, LONG, TINY
from conftest import BINARY, MODEL
from raw_http import post
from running_server import wait_until

@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}x", b'{"prompt":"a"}{"prompt":"a"}', b'{"prompt":"a","prompt":"b"}',
                                  b'{"prompt":"\xff"}', b'{"prompt":"\\ud800"}', b'{"prompt":NaN}', b"[" * 250000,
                                  b'{"metadata":' + b"[" * 3000 + b"]" * 3000 + b"}", b'{"prompt":"a","temperature":1e400}'])
def test_malformed_bodies(server, body):
    answer = httpx.post(server.base + "/v1/completions", content=body)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx.post(server.base + "/v1/completions", json=TINY).status_code == 200


def test_paths_and_methods(server):
    for path in ("/nope", "/v1/../health", "//v1/models", "/%2e%2e/etc/passwd"):
        answer = server.raw().exchange(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert answer == 404, path
    answer = httpx.get(server.base + "/v1/completions")
    assert answer.status_code == 405 and "POST" in answer.headers["allow"] and answer.json()["error"]["code"] == 405
    assert httpx.request("BREW", server.base + "/health").status_code == 405
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/start_profile", "/stop_profile"):
        for method in ("HEAD", "GET", "PUT", "DELETE", "PATCH"):
            answer = httpx.request(method, server.base + path, headers={"Origin": "http://evil.example"})
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS"), (method, path)
            assert (answer.content == b"") == (method == "HEAD") and "access-control-allow-origin" not in answer.headers
    head = httpx.head(server.base + "/v1/models")
    assert head.status_code == 200 and int(head.headers["content-length"]) > 0 and head.content == b""
    options = httpx.options(server.base + "/v1/models")
    assert options.status_code == 204 and "access-control-allow-origin" not in options.headers
    assert httpx.post(server.base + "/v1/completions", files={"a": b"b"}).status_code == 415
    assert httpx.post(server.base + "/v1/completions", content=b"x", headers={"content-encoding": "gzip"}).status_code == 415
    assert httpx.get(server.base + "/health", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def test_pipelined_requests_are_answered_in_order(server):
    with server.raw().connect() as connection:
        connection.send(post("/v1/completions", TINY, "x-request-id: one") + GET + post("/tokenize", {"prompt": "a"}, "x-request-id: three"))
        first, second, third = connection.response(), connection.response(), connection.response()
    assert [r[0] for r in (first, second, third)] == [200, 200, 200]
    assert first[1]["x-request-id"] == "one" and third[1]["x-request-id"] == "three"
    assert json.loads(second[2]) == {"status": "ok"}


def test_keep_alive_after_a_stream_and_chunked_body_with_continue(server):
    with server.raw().connect() as connection:
        connection.send(post("/v1/completions", {**TINY, "stream": True}))
        status, headers, body = connection.response()
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        assert body.endswith(b"data: [DONE]\n\n")
        connection.send(b"POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert connection._until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        connection.send(b'7;x=y\r\n{"promp\r\n7\r\nt":"a"}\r\n0\r\nContent-Length: 5\r\n\r\n')
        assert connection.response()[0] == 200
        connection.send(GET)
        assert connection.response()[0] == 200


def test_a_request_may_arrive_byte_by_byte(server):
    with server.raw().connect() as connection:
        for byte in post("/tokenize", {"prompt": "a"}):
            connection.send(bytes([byte]))
        assert connection.response()[0] == 200


def test_body_over_the_limit(server):
    assert server.raw().exchange(b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 33554433\r\n\r\n" + b"x" * 100000) == 413
    chunks = b"".join(b"100000\r\n" + b" " * 0x100000 + b"\r\n" for _ in range(33))
    assert server.raw().exchange(b"POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) == 413


@pytest.mark.parametrize("stream", [True, False])
def test_disconnect_frees_the_request(server, stream):
    before = server.metric("vllm:request_success_total", finished_reason="abort")
    body = {**LONG, "stream": stream, "n": 128}
    with server.raw().connect() as connection:
        connection.send(post("/v1/completions", body))
        assert wait_until(lambda: server.metric("atom:num_sequences_in_flight") == 128)
    assert wait_until(lambda: server.metric("atom:num_sequences_in_flight") == 0)
    # Choices are counted, as vLLM counts them.
    assert wait_until(lambda: server.metric("vllm:request_success_total", finished_reason="abort") == before + 128)
    assert server.holds_nothing()


def test_half_closed_client_is_gone(server):
    with server.raw().connect() as connection:
        connection.send(post("/v1/completions", LONG))
        connection.socket.shutdown(socket.SHUT_WR)
        assert b"[DONE]" not in connection.read_all()


def test_slow_header_and_body_end_at_their_deadline(start_server):
    server = start_server("--header-timeout", "1", "--body-timeout", "1")
    started = time.monotonic()
    with server.raw().connect() as header, server.raw().connect() as body:
        body.send(b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
        for _ in range(15):
            header.send(b"G")
            body.send(b" ")
            time.sleep(0.1)
        assert b" 408 " in header.read_all()[:20]
        assert b" 408 " in body.read_all()[:20]
    assert time.monotonic() - started < 10
    assert server.stop() == 0


def test_api_key_guards_all_but_the_open_routes(start_server):
    server = start_server("--api-key", "sesame", "--allowed-origins", "http://ui.example")
    routes = [("POST", p) for p in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")]
    routes += [("GET", p) for p in ("/v1/models", "/v1/models/x", "/tokenizer_info", "/nope")]
    wrong = [{}, {"Authorization": "Bearer sesam"}, {"Authorization": "Bearer sesame2"}, {"Authorization": "Bearer"},
             {"Authorization": "sesame"}, {"Authorization": "Bearer " + "s" * 4000}]
    for method, path in routes:
        for headers in wrong:
            answer = httpx.request(method, server.base + path, headers=headers)
            assert answer.status_code == 401, (path, headers)
            assert answer.json()["error"]["type"] == "authentication_error"
    for path in ("/health", "/version", "/metrics"):
        assert httpx.get(server.base + path).status_code == 200
    good = {"Authorization": "Bearer sesame"}
    assert httpx.get(server.base + "/v1/models", headers=good).status_code == 200
    answer = httpx.options(server.base + "/v1/models", headers={"Origin": "http://ui.example"})
    assert answer.headers["access-control-allow-origin"] == "http://ui.example"
    answer = httpx.get(server.base + "/health", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert "sesame" not in server.output()
    assert server.stop() == 0


def test_drain_finishes_streams_refuses_new_requests_and_exits_0(start_server):
    server = start_server()
    with server.raw().connect() as stream:
        stream.send(post("/v1/completions", {**LONG, "n": 128}))
        assert wait_until(lambda: server.metric("vllm:num_requests_running") > 0)
        server.process.send_signal(signal.SIGTERM)
        health = httpx.get(server.base + "/health")
        if health.status_code == 503:  # else the stream ended first
            assert httpx.post(server.base + "/v1/completions", json=TINY).status_code == 503
        assert stream.response()[2].endswith(b"data: [DONE]\n\n")
    assert server.process.wait(30) == 0


def test_port_in_use_fails_before_loading(server):
    started = subprocess.run([BINARY, "serve", "--model", MODEL, "--host", "127.0.0.1", "--server-port", str(server.port)],
                             capture_output=True, text=True, timeout=60, check=False)
    assert started.returncode == 1 and "cannot bind" in started.stderr and "memory:" not in started.stderr
