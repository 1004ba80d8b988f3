"""Faults from outside while a server starts, runs or ends: signals at every moment, a KV cache that is too small, floods,
templates beyond their budget, scrapes without a pause. Each is followed by a good request, or by the right end."""
import asyncio
import concurrent.futures
import signal
import socket
import subprocess
import time

import httpx
import pytest

from adversary import CHAT, GET, LONG, TINY, check_error, check_good, refused
from conftest import MODEL, TEMPLATE
from raw_http import post
from running_server import BINARY, allow_files, wait_until


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_signal_to_end_lets_streams_finish(start_server, sig):
    server = start_server()
    with server.raw().connect(timeout=60) as stream:
        stream.send(post("/v1/completions", {**LONG, "n": 32}))
        while b"data: " not in stream.buffer:
            stream._more()
        server.process.send_signal(sig)
        body = stream.response()[2]
        assert body.endswith(b"data: [DONE]\n\n") and body.count(b'"finish_reason":"length"') == 32 and b'"error"' not in body
    assert server.process.wait(30) == 0


def test_a_signal_that_the_parent_had_ignored_stays_ignored(tmp_path):
    """`nohup atom serve &` outlives its terminal."""
    log = tmp_path / "log.txt"
    with open(log, "w") as out:
        process = subprocess.Popen([BINARY, "serve", "--model", MODEL, "--host", "127.0.0.1", "--server-port", "0"], stderr=out,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    try:
        assert wait_until(lambda: "ready: " in log.read_text(), 60)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None and "draining" not in log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_model_loads_ends_at_once(tmp_path, sig):
    """The model comes from a hub that takes the connection and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as hub, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        process = subprocess.Popen(
            [BINARY, "serve", "--model", "some/model", "--host", "127.0.0.1", "--server-port", str(port)], stderr=subprocess.PIPE,
            env={"HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}", "HF_HOME": str(tmp_path), "HOME": str(tmp_path)})
        try:
            hub.settimeout(30)
            connection, _ = hub.accept()  # it is loading
            with pytest.raises(httpx.ConnectError):  # and takes no connection that it could not serve
                httpx.get(f"http://127.0.0.1:{port}/health")
            process.send_signal(sig)
            assert process.wait(5) == 128 + sig
            connection.close()
        finally:
            process.kill()
            process.communicate()


def complete(server, prompt, **fields):
    body = {"prompt": prompt, "temperature": 0, "ignore_eos": True, **fields}
    return httpx.post(server.base + "/v1/completions", json=body, timeout=120)


def test_a_kv_cache_that_is_too_small_preempts_and_changes_nothing(server, start_server):
    prompts = [f"{word} b" for word in "abcdefgh"]
    wanted = [complete(server, prompt, max_tokens=300).json()["choices"][0]["text"] for prompt in prompts]
    small = start_server("--kv-cache-memory-gb", "0.0002")  # 52 blocks: two and a half of these answers
    limit = httpx.get(small.base + "/v1/models").json()["data"][0]["max_model_len"]
    answer = complete(small, prompts, max_tokens=300)  # one request, so that all of them run at once
    assert [choice["text"] for choice in answer.json()["choices"]] == wanted
    assert small.metric("vllm:num_preemptions_total") > 0
    # What can never fit is refused when it comes, and does not wait for ever.
    tiny = start_server("--kv-cache-memory-gb", "0.00005")
    pool_len = httpx.get(tiny.base + "/v1/models").json()["data"][0]["max_model_len"]
    assert pool_len < limit
    error = refused(complete(tiny, [1] * (pool_len + 1), max_tokens=1), "prompt")
    assert f"maximum context length is {pool_len} tokens" in error["message"]
    assert complete(tiny, [1] * (pool_len - 1), max_tokens=1).status_code == 200
    for one in (small, tiny):
        one.check_idle_and_stop()
    check_good(server)


async def ask_on_one_connection(server, data, times):
    """Statuses of the same request sent `times` times ahead; checks what a refusal says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data * times)
    statuses = []
    for _ in range(times):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        statuses.append(int(head[9:12]))
        body = await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        if statuses[-1] == 503:
            assert "\r\nretry-after: 1\r\n" in head and check_error(body)["code"] == "queue_full"
        else:
            assert body.count(b'"finish_reason":"length"') == 4, body
    writer.close()
    return statuses


def test_10000_requests_at_a_queue_of_12_are_answered_or_sent_away(start_server):
    server = start_server("--max-num-seqs", "4", "--max-queued-requests", "8")
    clients = min(1000, allow_files(4096) - 100)
    data = post("/v1/completions", {**TINY, "max_tokens": 8, "n": 4})

    async def flood():
        return await asyncio.gather(*(ask_on_one_connection(server, data, 10) for _ in range(clients)))

    statuses = sum(asyncio.run(asyncio.wait_for(flood(), 120)), [])
    assert len(statuses) == 10 * clients and set(statuses) == {200, 503}
    assert server.metric("atom:requests_rejected_total", reason="queue_full") == statuses.count(503)
    check_good(server)
    server.check_idle_and_stop()


def test_a_template_beyond_its_budget_fails_its_request_and_no_other(start_server):
    template = "{% for i in range(count|default(1)) %}{% for j in range(1000) %}{% endfor %}{% endfor %}" + TEMPLATE
    server = start_server("--chat-template", template)
    bodies = [{**CHAT, "chat_template_kwargs": {"count": 100000}}] * 8
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        answers = pool.map(lambda body: httpx.post(server.base + "/v1/chat/completions", json=body, timeout=60), bodies)
        for _ in range(5):
            assert httpx.post(server.base + "/v1/chat/completions", json=CHAT, timeout=60).status_code == 200
        for answer in answers:
            assert "steps" in refused(answer)["message"]
    check_good(server)
    assert server.stop() == 0


def test_scrapes_without_a_pause_hold_nobody_up_and_do_not_grow(server):
    alone = complete(server, "a b", max_tokens=400).json()["choices"][0]["text"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.base) as client:
        answer = pool.submit(complete, server, "a b", max_tokens=400, n=64)
        sizes = [len(client.get("/metrics").text.splitlines()) for _ in range(100)]
        choices = answer.result().json()["choices"]
    assert len(set(sizes[1:])) == 1  # the first may be the first /metrics of this server
    assert [choice["text"] for choice in choices] == [alone] * 64
    check_good(server)


def test_streams_pass_proxies_and_carry_nothing_but_data(server):
    """No comment lines: clients of ours take every line for JSON. Proxies are asked not to gather it up."""
    with server.raw().connect() as connection:
        connection.send(post("/v1/completions", {**LONG, "n": 4}) + GET)
        status, headers, body = connection.response()
        assert status == 200 and headers["x-accel-buffering"] == "no" and headers["cache-control"] == "no-cache"
        assert all(line.startswith(b"data: ") for line in body.split(b"\n\n") if line)
        assert connection.response()[0] == 200
    check_good(server)


def test_prompt_logprobs_do_not_depend_on_the_prefix_cache(server, start_server):
    prompt = "cached " * 20
    plain = start_server("--served-model-name", "tiny", "--no-enable-prefix-caching")
    for _ in range(2):  # now it is cached
        used = complete(server, prompt, max_tokens=1).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert used > 0
    for fields in ({"prompt_logprobs": 2}, {"echo": True, "logprobs": 2}):
        cached, fresh = (complete(one, prompt, max_tokens=1, **fields).json()["choices"] for one in (server, plain))
        assert cached == fresh
        scored = cached[0].get("prompt_logprobs") or cached[0]["logprobs"]["token_logprobs"]
        assert len(scored) > 20 and None not in scored[1:]
    plain.check_idle_and_stop()
    check_good(server)
