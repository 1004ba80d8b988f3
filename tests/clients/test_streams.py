"""Properties of every event stream, over seeded random requests sent through raw sockets while others run: a stream
put together is the whole answer of the same request (text, token ids, logprobs, reasons, usage), and the text is what
the tokens' bytes say, cut before the first stop string."""
import concurrent.futures
import json
import random

import httpx
import pytest

from demo import NAME
from raw_http import post
from running_server import wait_until
from sse import assemble, events, whole_choice

PROMPTS = ["Once upon a time", "Write the word naïve in 日本語 and add 🎉🎈:", "1 2 3 4 5 6", "The quick brown fox"]
CASES = range(40)


@pytest.fixture(scope="module")
def fragments(demo):
    """Ids of tokens that are no whole UTF-8 by themselves: pieces of characters."""
    text = "日本語 🎉🎈 ñandú żółw Ω≈ç√ 한국어 עברית 😀👩‍👩‍👧 ☃ ŉ ⁂ ﷽ 𝔘𝔫𝔦"
    tokens = httpx.post(demo.base + "/tokenize", json={"prompt": text}).json()["tokens"]
    alone = httpx.post(demo.base + "/v1/completions", json={"prompt": [[t] for t in tokens], "max_tokens": 0, "echo": True})
    pieces = {str(t): 100 for t, choice in zip(tokens, alone.json()["choices"]) if "\ufffd" in choice["text"]}
    assert len(pieces) > 30
    return pieces


def random_request(rng, fragments):
    chat = rng.random() < 0.5
    body = {"model": NAME, "max_tokens": rng.randint(1, 24), "seed": rng.randint(-2**63, 2**63 - 1),
            "temperature": rng.choice([0, 0.7, 1.0, 2.0]), "n": rng.choice([1, 1, 1, 2, 3]), "return_token_ids": True}
    if chat:
        body["messages"] = [{"role": "user", "content": rng.choice(PROMPTS)}]
    else:
        body["prompt"] = rng.choice(PROMPTS) if rng.random() < 0.6 else rng.sample(PROMPTS, 2)
        body["echo"] = rng.random() < 0.3
    if rng.random() < 0.5:
        body.update({"logprobs": True, "top_logprobs": rng.randint(0, 3)} if chat else {"logprobs": rng.randint(0, 3)})
    if rng.random() < 0.4:  # soup: hardly any valid character
        body.update(temperature=2.0, logit_bias=fragments)
    body["ignore_eos"] = rng.random() < 0.5
    body["skip_special_tokens"] = rng.random() < 0.7
    body["min_tokens"] = rng.choice([0, 0, 3]) if body["max_tokens"] >= 3 else 0
    return "/v1/chat/completions" if chat else "/v1/completions", body


def ask(server, path, body):
    with server.raw().connect(timeout=60) as connection:
        connection.send(post(path, body))
        status, headers, data = connection.response()
    assert status == 200, (data, body)
    return headers, data


def with_stops(rng, body, free):
    """The request with stop strings that mostly are in its answer `free`, and sometimes span tokens or end it."""
    stops = {"never in any answer"}
    for choice in free:
        if choice["text"]:
            begin = rng.randrange(len(choice["text"]))
            stops.add(choice["text"][begin:begin + rng.randint(1, 6)])
    return {**body, "stop": sorted(stops), "include_stop_str_in_output": rng.random() < 0.3}


def shown_before_stop(text, body):
    """`text` cut where the first stop string completes; None when none does."""
    for end in range(1, len(text) + 1):
        found = [s for s in body["stop"] if text[:end].endswith(s)]
        if found:
            return text[:end] if body["include_stop_str_in_output"] else text[:end - max(map(len, found))]
    return None


def check(server, number, fragments):
    rng = random.Random(number)
    path, body = random_request(rng, fragments)
    free = [whole_choice(c) for c in json.loads(ask(server, path, body)[1])["choices"]]
    if stops := rng.random() < 0.5 and not body.get("echo") and not body["min_tokens"]:
        body = with_stops(rng, body, free)
    whole = json.loads(ask(server, path, body)[1])
    usage_asked, continuous = rng.random() < 0.5, rng.random() < 0.2
    streamed = {**body, "stream": True}
    if usage_asked or continuous:
        streamed["stream_options"] = {"include_usage": usage_asked, "continuous_usage_stats": continuous}
    headers, data = ask(server, path, streamed)
    assert headers["content-type"].startswith("text/event-stream") and headers["cache-control"] == "no-cache"
    choices, usage, chunks = assemble(data, usage_asked)
    assert choices == [whole_choice(c) for c in whole["choices"]], body
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    if usage_asked:
        assert [usage[k] for k in counts] == [whole["usage"][k] for k in counts]
    if continuous:
        assert all(c["usage"]["completion_tokens"] > 0 for c in chunks)
    assert whole["usage"]["completion_tokens"] == sum(len(c["token_ids"]) for c in choices)
    for choice in choices:
        check_bytes(choice, body)
    if stops:
        check_stops(choices, free, body)
    return [c["finish_reason"] for c in choices]


def check_bytes(choice, body):
    if "messages" not in body or "logprobs" not in choice:
        return
    entries = choice["logprobs"]["content"]
    assert len(entries) == len(choice["token_ids"])
    if choice["finish_reason"] == "length" and not body["skip_special_tokens"]:
        assert choice["text"] == b"".join(bytes(e["bytes"]) for e in entries).decode("utf-8", "replace")


def check_stops(choices, free, body):
    for choice, unstopped in zip(choices, free):
        expected = shown_before_stop(unstopped["text"], body)
        assert choice["text"] == (unstopped["text"] if expected is None else expected), body
        assert (choice["stop_reason"] in body["stop"]) == (expected is not None)


def test_a_stream_is_the_whole_answer(demo, fragments):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = [pool.submit(check, demo, number, fragments) for number in CASES]
        reasons = [reason for result in results for reason in result.result()]
    assert reasons.count("stop") > 10 and reasons.count("length") > 10


def test_choices_arrive_interleaved(demo):
    _, data = ask(demo, "/v1/completions", {"prompt": ["One", "Two"], "n": 2, "max_tokens": 8, "stream": True, "ignore_eos": True})
    order = [event["choices"][0]["index"] for event in events(data)]
    assert sorted(set(order)) == [0, 1, 2, 3] and order != sorted(order)


def test_no_frame_is_split_from_its_bytes(demo):
    """Each write of the server is whole frames: a reader that decodes what it gets never sees half a character."""
    with demo.raw().connect() as connection:
        connection.send(post("/v1/completions", {"prompt": PROMPTS[1], "max_tokens": 40, "stream": True, "temperature": 2, "ignore_eos": True}))
        connection._until(b"\r\n\r\n")
        while size := int(connection._until(b"\r\n"), 16):
            piece = connection._exactly(size)
            assert connection._exactly(2) == b"\r\n"
            assert piece.startswith(b"data: ") and piece.endswith(b"\n\n") and piece.decode("utf-8", "strict")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot_within_two_steps(demo, stream):
    def state():
        return demo.metrics(("vllm:num_requests_running", {}), ("atom:engine_steps_total", {}))

    body = {"prompt": "Once", "max_tokens": 1900, "ignore_eos": True}
    with demo.raw().connect() as other:
        other.send(post("/v1/completions", {**body, "stream": True}))
        leaver = demo.raw().connect()
        leaver.send(post("/v1/completions", {**body, "stream": stream}))
        assert wait_until(lambda: state()[0] == 2)
        leaver.socket.close()
        _, left_at = state()
        running, steps = state()
        while running == 2:
            assert steps <= left_at + 2
            running, steps = state()
        assert running == 1
    assert wait_until(lambda: demo.metric("atom:num_sequences_in_flight") == 0)
