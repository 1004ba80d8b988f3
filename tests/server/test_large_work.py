"""Large answers and bodies: made beside the small ones, the same as them, holding nobody up."""
import httpx

from adversary import TINY, check_good
from raw_http import post

SCORED = {"prompt": "a b", "max_tokens": 100, "temperature": 0, "ignore_eos": True, "logprobs": 5}


def choices(server, **fields):
    answer = httpx.post(server.base + "/v1/completions", json={**SCORED, **fields}, timeout=60)
    assert answer.status_code == 200, answer.text
    return [{**choice, "index": 0} for choice in answer.json()["choices"]]


def test_a_large_answer_equals_the_small_one(server):
    small, = choices(server)
    assert len(small["logprobs"]["tokens"]) == 100
    assert choices(server, n=32) == [small] * 32
    echoed, = choices(server, echo=True, max_tokens=1)
    assert choices(server, echo=True, max_tokens=1, n=128, logprobs=5) == [echoed] * 128
    check_good(server)


def test_a_large_body_holds_no_small_one_up(server):
    with server.raw().connect(timeout=60) as large:
        large.send(post("/tokenize", {"prompt": "a b " * 1000000}))
        for _ in range(2):
            assert httpx.post(server.base + "/tokenize", json={"prompt": "a b"}, timeout=60).status_code == 200
            assert httpx.post(server.base + "/v1/completions", json=TINY, timeout=60).status_code == 200
        large.socket.setblocking(False)
        try:
            early = large.socket.recv(1)
        except BlockingIOError:
            early = b""
        assert not early, "the large one was first: nothing is shown here"
        large.socket.settimeout(60)
        assert large.response()[0] == 200
    check_good(server)


def test_a_client_may_leave_a_large_answer(server):
    for wait in (False, True):
        with server.raw().connect() as connection:
            connection.send(post("/v1/completions", {**SCORED, "n": 64, "max_tokens": 300}))
            if wait:
                connection.socket.recv(1)
    check_good(server)
