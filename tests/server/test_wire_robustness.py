"""HTTP over raw sockets, beyond test_http.py: the rows of framing.py, connections that live on, clients that vanish,
dawdle or read slowly. Every row is followed by a good request on a fresh connection, and on the same one where it lives
on."""
import contextlib
import json
import socket
import struct
import threading
import time

import httpx
import pytest

from adversary import CHAT, GET, LONG, TINY, check_error, check_good, refused
from framing import BODY, CHUNKED, POST, REFUSED, SURVIVES
from raw_http import post
from running_server import allow_files, wait_until

@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(server, name):
    data, status = REFUSED[name]
    with server.raw().connect() as connection:
        connection.send(data + GET)  # what follows must never be taken for a request
        answers = connection.read_all()
    assert answers.startswith(b"HTTP/1.1 %d " % status), answers[:200]
    assert answers.count(b"\r\nServer: ") == 1, "the bytes after a refused request were answered"
    head, body = answers.split(b"\r\n\r\n", 1)
    assert b"\r\nconnection: close" in head.lower()
    check_error(body)
    check_good(server)


@pytest.mark.parametrize("name", SURVIVES)
def test_what_is_well_framed_is_answered_and_the_connection_lives_on(server, name):
    data, status = SURVIVES[name]
    with server.raw().connect() as connection:
        connection.send(data + post("/tokenize", {"prompt": "a"}))
        first = connection.response()
        assert status is None or first[0] == status, first
        assert len(first[1]["x-request-id"]) <= 128
        if first[0] >= 400:
            check_error(first[2])
        if first[0] == 405:
            assert first[1]["allow"]
        assert connection.response()[0] == 200
        connection.send(GET)
        assert connection.response()[0] == 200
    check_good(server)


def test_a_thousand_methods_leave_no_trace_in_the_metrics(server):
    before = len(httpx.get(server.base + "/metrics").text.splitlines())
    with server.raw().connect() as connection:
        for i in range(1000):
            connection.send(f"M{i}X{i * i} /p{i} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        for _ in range(1000):
            assert connection.response()[0] in (404, 405)
    assert len(httpx.get(server.base + "/metrics").text.splitlines()) <= before + 20
    check_good(server)


def test_expect_continue(server):
    with server.raw().connect() as connection:
        connection.send(POST + b"Content-Length: 14\r\nExpect: 100-Continue\r\n\r\n")
        assert connection._until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        connection.send(BODY)
        assert connection.response()[0] == 200
        # A client that does not wait gets no interim answer.
        connection.send(POST + b"Content-Length: 14\r\nExpect: 100-continue\r\n\r\n" + BODY)
        assert connection.response()[0] == 200
        connection.send(b"GET /health HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n")  # nothing to continue with
        assert connection.response()[0] == 200
    # Too large: refused before a byte of it is sent.
    with server.raw().connect() as connection:
        connection.send(POST + b"Content-Length: 33554433\r\nExpect: 100-continue\r\n\r\n")
        assert connection.read_all().startswith(b"HTTP/1.1 413 ")
    check_good(server)


def test_pipelined_streams_and_refusals_come_in_order(server):
    good = post("/v1/completions", {**TINY, "stream": True})
    bad = post("/v1/completions", {**TINY, "n": 0})
    with server.raw().connect() as connection:
        connection.send(good + bad + post("/v1/completions", TINY) + GET + good)
        answers = [connection.response() for _ in range(5)]
    assert [a[0] for a in answers] == [200, 400, 200, 200, 200]
    assert answers[0][2].endswith(b"data: [DONE]\n\n") and answers[4][2].endswith(b"data: [DONE]\n\n")
    with server.raw().connect() as connection:  # 2,000 in one go: more than is read ahead
        thread = threading.Thread(target=connection.send, args=(GET * 2000,))
        thread.start()
        assert all(connection.response()[0] == 200 for _ in range(2000))
        thread.join()
    with server.raw().connect() as connection:  # a refused one ends the row
        connection.send(GET + b"GET /health HTTP/9.9\r\n\r\n" + GET)
        assert connection.read_all().count(b"\r\nServer: ") == 2
    check_good(server)


def test_http_1_0_closes_and_its_stream_is_not_chunked(server):
    with server.raw().connect() as connection:
        body = json.dumps({**TINY, "stream": True}).encode()
        connection.send(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = connection.read_all()
    head, events = answer.split(b"\r\n\r\n", 1)
    assert b"transfer-encoding" not in head.lower() and events.startswith(b"data: ") and events.endswith(b"data: [DONE]\n\n")
    check_good(server)


@contextlib.contextmanager
def begun(server, data, wait=0.05):
    with server.raw().connect() as connection:
        connection.send(data)
        time.sleep(wait)
        yield connection


def reset(connection):
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.socket.close()


PHASES = {
    "connected": b"", "in the request line": b"POST /v1/comp", "in the header": POST, "in the body": POST + b"Content-Length: 100\r\n\r\n{",
    "in a chunk": CHUNKED + b"5\r\nab", "before 100 Continue": POST + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n",
    "whole answer to come": post("/v1/completions", {**LONG, "stream": False, "n": 8}), "stream to come": post("/v1/completions", {**LONG, "n": 8}),
    "prefill": post("/v1/completions", {**LONG, "prompt": "a b c d " * 60}), "pipelined": post("/v1/completions", LONG) + GET * 10,
    "refused": b"\x00\r\n\r\n", "answered": GET,
}


@pytest.mark.parametrize("leave", ["FIN", "RST", "half"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_vanishes_leaves_nothing(server, phase, leave):
    for wait in (0.0, 0.03):
        with begun(server, PHASES[phase], wait) as connection:
            if leave == "half":
                connection.socket.shutdown(socket.SHUT_WR)
                connection.read_all()  # the server ends its side too
            elif leave == "RST":
                reset(connection)
    assert server.holds_nothing()
    check_good(server)


def test_a_lying_length_ends_at_the_deadline_or_as_bad_json(start_server):
    server = start_server("--body-timeout", "0.6", "--header-timeout", "0.6", "--timeout-keep-alive", "0.8")
    with server.raw().connect() as connection:  # too long
        connection.send(POST + b"Content-Length: 20\r\n\r\n" + BODY)
        assert connection.read_all().startswith(b"HTTP/1.1 408 ")
    with server.raw().connect() as connection:  # too short: the rest is no request
        connection.send(POST + b"Content-Length: 10\r\n\r\n" + BODY)
        assert [connection.response()[0], connection.response()[0]] == [400, 400]
    with server.raw().connect() as connection:  # silent: closed without a word
        assert connection.read_all() == b""
    with server.raw().connect() as connection:  # silent after an answer
        connection.send(GET)
        assert connection.read_all().count(b"HTTP/1.1 ") == 1
    check_good(server)
    assert server.stop() == 0


def test_1000_slow_senders_end_at_the_deadline_and_hold_nobody_up(start_server):
    server = start_server("--header-timeout", "2", "--body-timeout", "2")
    slow = [server.raw().connect() for _ in range(min(1000, allow_files(4096) - 100))]
    begin = time.monotonic()
    for i, connection in enumerate(slow):
        connection.send((b"GET /health HTTP/1.1\r\nX: ", CHUNKED, POST + b"Content-Length: 100\r\n\r\n")[i % 3])
    worst = 0
    while time.monotonic() - begin < 3.2:
        for i, connection in enumerate(slow):  # a byte each, again and again: a deadline that is pushed back never comes
            with contextlib.suppress(OSError):
                connection.socket.send(b"1" if i % 3 else b"y")
        started = time.monotonic()
        check_good(server)
        worst = max(worst, time.monotonic() - started)
        time.sleep(0.1)
    for connection in slow:
        answer = connection.read_all()
        assert answer == b"" or answer.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))
        connection.socket.close()
    assert worst < 2
    assert server.stop() == 0


def test_chunk_attacks_leave_no_memory_behind(server):
    attacks = [REFUSED[name][0] for name in ("a million chunks", "10 MB of extension", "trailers without end")]
    before = 0
    for round_number in range(4):
        for data in attacks:
            assert server.raw().exchange(data) in (400, 413)
        if round_number == 0:
            before = server.resident_bytes()  # what the first ones made it take, the next ones use again
    assert server.resident_bytes() - before < 8 << 20
    check_good(server)


def test_slow_readers_cost_bounded_memory_and_end_at_the_write_timeout(start_server):
    server = start_server("--write-timeout", "1", "--max-stream-backlog", "65536")
    check_good(server)
    before = server.resident_bytes()
    stalled = []
    for _ in range(20):
        connection = server.raw().connect()
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.send(post("/v1/completions", {**LONG, "n": 16, "logprobs": 5}))
        stalled.append(connection)
    check_good(server)
    assert wait_until(lambda: server.metric("atom:num_sequences_in_flight") == 0, 60)
    # Whole answers that nobody reads: 1,000 of them pipelined.
    with server.raw().connect() as connection:
        connection.socket.settimeout(2)
        with contextlib.suppress(TimeoutError):
            for _ in range(1000):
                connection.socket.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        check_good(server)
    assert server.resident_bytes() - before < 80 << 20
    for connection in stalled:
        connection.socket.close()
    assert server.holds_nothing()
    check_good(server)
    assert server.stop() == 0


def test_a_reader_of_a_few_bytes_at_a_time_cannot_hold_an_answer_for_ever(start_server):
    server = start_server("--write-timeout", "0.5")
    answer = 4 * 1000 * 1000
    with server.raw().connect() as connection:
        connection.send(post("/detokenize", {"tokens": [65] * answer}))
        received, started = len(connection.socket.recv(64)), time.monotonic()
        while server.metric("atom:http_connections") > 1 and time.monotonic() - started < 15:  # 1: that of the question
            received += len(connection.socket.recv(64))
            time.sleep(0.02)
        assert 0.4 < time.monotonic() - started < 5
        # What its kernel had taken before the reset can still be read: nothing near the answer.
        with pytest.raises(ConnectionResetError):
            while data := connection.socket.recv(65536):
                received += len(data)
        assert received < 1000000
    check_good(server)
    assert server.stop() == 0


def test_a_reader_that_takes_its_time_but_takes_gets_it_all(start_server):
    server = start_server("--write-timeout", "3")
    with server.raw().connect() as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        connection.send(post("/detokenize", {"tokens": [65] * 400000}))
        while len(connection.buffer) < 400000:  # 4 s in all
            connection.buffer += connection.socket.recv(4096)
            time.sleep(0.04)
        assert connection.response()[0] == 200
    assert server.stop() == 0


def test_connections_beyond_the_limit_get_503_and_health_recovers(start_server):
    server = start_server("--max-connections", "20")
    held = [server.raw().connect() for _ in range(20)]
    time.sleep(0.2)
    with server.raw().connect() as connection:
        answer = connection.read_all()
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After" in answer
        check_error(answer.split(b"\r\n\r\n", 1)[1])
    for connection in held:
        connection.socket.close()
    assert wait_until(server.healthy, 5)
    check_good(server)
    assert server.stop() == 0


def test_bodies_beyond_the_limit_of_all_together_get_503(start_server):
    server = start_server("--max-body-bytes", "1000000", "--max-total-body-bytes", "1000000")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(begun(server, POST + b"Content-Length: 400000\r\n\r\n" + b" " * 390000, 0.1)) for _ in range(2)]
        with begun(server, POST + b"Content-Length: 400000\r\n\r\n" + b" " * 390000) as connection:
            assert connection.read_all().startswith(b"HTTP/1.1 503 ")
        assert server.healthy()
        held[0].send(b" " * 10000)
        assert held[0].response()[0] == 400
    assert wait_until(lambda: httpx.post(server.base + "/tokenize", content=b'{"prompt":"' + b"a" * 900000 + b'"}').status_code == 200, 5)
    check_good(server)
    assert server.stop() == 0


def test_a_full_queue_answers_503_fast_and_the_accepted_ones_complete(start_server):
    server = start_server("--max-queued-requests", "8", "--max-num-seqs", "4")
    connections = [server.raw().connect(timeout=60) for _ in range(30)]
    for connection in connections:
        connection.send(post("/v1/completions", {**LONG, "n": 12}))  # one of them is all there is room for
    statuses = []
    for connection in connections:
        status, headers, body = connection.response()
        statuses.append(status)
        if status == 503:
            assert headers["retry-after"]
            check_error(body)
        else:
            assert status == 200 and body.endswith(b"data: [DONE]\n\n")
        connection.socket.close()
    assert 200 in statuses and 503 in statuses
    many = httpx.post(server.base + "/v1/completions", json={**TINY, "n": 100})
    refused(many, "n")  # never possible here, so it is not sent away to try again
    check_good(server)
    assert server.stop() == 0


def test_100_requests_with_one_id_all_succeed(server):
    connections = []
    for _ in range(100):
        connection = server.raw().connect(timeout=60)
        connection.send(post("/v1/completions", TINY, "X-Request-Id: same"))
        connections.append(connection)
    for connection in connections:
        status, headers, _ = connection.response()
        assert status == 200 and headers["x-request-id"] == "same"
        connection.socket.close()
    check_good(server)


def test_cors_and_key_forms(start_server):
    server = start_server("--api-key", "sesame", "--allowed-origins", "http://ui.example")
    two = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sesame\r\nAuthorization: Bearer sesame\r\n\r\n"
    forms = [two, *(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: " + value + b"\r\n\r\n" for value in (
        b"Bearer  sesame", b"Bearer sesame\x80", b"Bearer s\xe9same", b"Basic c2VzYW1l", b"Bearer sesame,x", b"Bearer SESAME", b"sesame", b"Bearer\tsesame",
        b"Bearer sesamesesame", b""))]
    for data in forms:
        with server.raw().connect() as connection:
            connection.send(data + b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: bearer sesame\r\n\r\n")
            status, headers, body = connection.response()
            assert status == 401 and headers["www-authenticate"].startswith("Bearer"), data
            check_error(body)
            assert connection.response()[0] == 200  # the scheme's case does not matter, and the connection lives on
    for path in ("/v1/models", "/v1/completions", "/v1/../health", "//health", "/health/../v1/models", "/tokenize?x=/health", "/v1/models#/health"):
        with server.raw().connect() as connection:
            connection.send(f"GET {path} HTTP/1.1\r\nHost: evil/health?\r\n\r\n".encode())
            assert connection.response()[0] == 401, path
    # A preflight carries no key; a foreign origin learns nothing from it.
    for origin, allowed in (("http://ui.example", True), ("http://evil.example", False), ("null", False), ("http://ui.example.evil", False)):
        answer = httpx.options(server.base + "/v1/chat/completions", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
        assert answer.status_code == 204
        assert ("access-control-allow-origin" in answer.headers) == allowed, origin
        assert "access-control-allow-credentials" not in answer.headers
    split = httpx.get(server.base + "/health", headers={"Origin": "http://ui.example"})
    assert split.headers["vary"] == "Origin"
    assert "sesame" not in server.output()
    assert server.stop() == 0


def test_log_lines_cannot_be_forged(start_server):
    server = start_server("--log-format", "json")
    evil = '\n{"level":"error","message":"forged"}\n\x1b[31m\u2028'
    httpx.post(server.base + "/v1/completions", json={**TINY, "model": evil})
    httpx.post(server.base + "/v1/chat/completions", json={**CHAT, "user": evil})
    with server.raw().connect() as connection:
        connection.send(b'GET /%7b%22forged%22%7d%e2%80%a8%1f HTTP/1.1\r\nHost: a\r\n\r\n' + GET)
        connection.read_all()
    check_good(server)
    assert server.stop() == 0
    for line in server.output().splitlines():
        assert not line.startswith('{"level":"error","message":"forged"') and "\x1b" not in line
        if line.startswith("{"):
            json.loads(line)
