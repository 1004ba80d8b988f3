"""Many streams of a real model at once: every one complete and the same as alone, and a short request between them
answered within five steps. The figures of a quiet machine are in docs/reliability.md; ATOM_LOAD_REPORT=1 prints them."""
import concurrent.futures
import json
import os
import threading
import time

from raw_http import post
from running_server import wait_until
from sse import assemble, whole_choice

STREAMS = 64
WORDS = ["river", "engine", "violin", "desert", "garden", "planet", "bridge", "winter"]
PROMPTS = [f"{number}. The {first} and the {second}" for number, (first, second)
           in enumerate((a, b) for a in WORDS for b in WORDS)]


def request(prompt, **fields):
    return {"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **fields}


def answer(server, body):
    with server.raw().connect(timeout=120) as connection:
        connection.send(post("/v1/completions", body))
        status, _, data = connection.response()
    assert status == 200, data
    if not body.get("stream"):
        return whole_choice(json.loads(data)["choices"][0])
    return assemble(data)[0][0]


def report(text):
    if os.environ.get("ATOM_LOAD_REPORT"):
        print("\n" + text)


def test_64_streams_say_what_each_says_alone(demo):
    alone = [answer(demo, request(prompt)) for prompt in PROMPTS]
    assert len({choice["text"] for choice in alone}) > STREAMS // 2
    started, before = time.monotonic(), demo.metric("vllm:generation_tokens_total")
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        together = list(pool.map(lambda prompt: answer(demo, request(prompt, stream=True)), PROMPTS))
    seconds = time.monotonic() - started
    assert together == alone
    tokens = demo.metric("vllm:generation_tokens_total") - before
    assert tokens == STREAMS * 8
    report(f"{STREAMS} streams of 8 tokens in {seconds:.2f} s: {tokens / seconds:.0f} tokens/s")


def test_a_short_request_amid_64_long_ones_answers_within_5_steps(demo):
    def steps():
        return demo.metrics(("vllm:num_requests_running", {}), ("atom:engine_steps_total", {}))

    leave = threading.Event()

    def long_stream(prompt):
        with demo.raw().connect(timeout=120) as connection:
            connection.send(post("/v1/completions", request(prompt, max_tokens=1900, stream=True)))
            leave.wait(60)

    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        for prompt in PROMPTS:
            pool.submit(long_stream, prompt)
        try:
            assert wait_until(lambda: steps()[0] == STREAMS, seconds=60)
            needed = []
            for number in range(5):
                begin, started = steps()[1], time.monotonic()
                answer(demo, request(f"Short request {number}:", max_tokens=1, stream=number % 2 == 0))
                seconds = time.monotonic() - started
                running, end = steps()
                needed.append((int(end - begin), round(seconds * 1000)))
                assert running == STREAMS
        finally:
            leave.set()
    report(f"a one-token request amid {STREAMS} streams, (steps, ms): {needed}")
    assert max(count for count, _ in needed) <= 5
    assert wait_until(lambda: demo.metric("atom:num_sequences_in_flight") == 0)
