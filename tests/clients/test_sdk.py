"""The official `openai` package as its README shows it: sync, async, streams, raw answers, its error classes,
retries and cancelling. Run with the package's newest major version, and by frameworks/ with the one before."""
import asyncio
import re

import httpx
import openai
import pytest

from demo import NAME
from running_server import wait_until

MESSAGES = [{"role": "user", "content": "Name three colours."}]
ASK = {"model": NAME, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
ENDLESS = {"model": NAME, "prompt": "Once", "max_tokens": 1900, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def client(demo):
    return openai.OpenAI(base_url=demo.base + "/v1", api_key="none", max_retries=0, timeout=60)


def test_first_example_of_the_readme(client):
    answer = client.chat.completions.create(
        model=NAME, messages=[{"role": "developer", "content": "Talk like a pirate."},
                              {"role": "user", "content": "How do I check if a Python object is an instance of a class?"}],
        max_completion_tokens=16)
    assert answer.object == "chat.completion" and answer.model == NAME and answer.id.startswith("chatcmpl-")
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason == "length"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens == 16 and answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_stream_is_the_whole_answer(client):
    whole = client.chat.completions.create(**ASK)
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])
    with client.chat.completions.stream(**ASK) as stream:  # the helper that assembles events
        for _event in stream:
            pass
    assert stream.current_completion_snapshot.choices[0].message.content == whole.choices[0].message.content


def test_completions_in_every_prompt_form(client):
    ids = httpx.post(str(client.base_url).replace("/v1/", "/tokenize"), json={"prompt": "The sky is"}).json()["tokens"]
    for prompt, count in [("The sky is", 1), (["The sky is", "The sky is"], 2), (ids, 1), ([ids, ids, ids], 3)]:
        answer = client.completions.create(model=NAME, prompt=prompt, max_tokens=4, temperature=0)
        assert [c.index for c in answer.choices] == list(range(count))
        assert {c.text for c in answer.choices} == {answer.choices[0].text} and answer.object == "text_completion"
        assert answer.usage.prompt_tokens == count * len(ids) and answer.usage.completion_tokens == 4 * count


def test_async_client_streams_many_at_once(demo):
    async def run():
        async with openai.AsyncOpenAI(base_url=demo.base + "/v1", api_key="none", max_retries=0) as client:
            async def one(i):
                text = ""
                async for chunk in await client.chat.completions.create(**{**ASK, "max_tokens": 8 + i % 3}, stream=True):
                    text += chunk.choices[0].delta.content or ""
                return text
            return await asyncio.gather(*[one(i) for i in range(12)])

    texts = asyncio.run(run())
    assert len(set(texts)) == 3 and texts[1].startswith(texts[0]) and texts[2].startswith(texts[1])


def test_raw_answer_has_request_id_and_json(client):
    raw = client.chat.completions.with_raw_response.create(**ASK, extra_headers={"X-Request-Id": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1" and raw.headers["content-type"] == "application/json"
    assert raw.parse().id == "chatcmpl-mine-1" and raw.parse()._request_id == "mine-1"
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert [line for line in streamed.iter_lines() if line][-1] == "data: [DONE]"


def test_models(client):
    assert [m.id for m in client.models.list()] == [NAME] and client.models.retrieve(NAME).owned_by == "atom"


@pytest.mark.parametrize("change,error,param", [
    ({"model": "gpt-9"}, openai.NotFoundError, "model"),
    ({"temperature": 9}, openai.BadRequestError, "temperature"),
    ({"n": 0}, openai.BadRequestError, "n"),
    ({"messages": []}, openai.BadRequestError, "messages"),
    ({"messages": [{"role": "user", "content": "a " * 4000}]}, openai.BadRequestError, "messages"),
    ({"max_tokens": 10**6}, openai.BadRequestError, "max_tokens"),
    ({"logit_bias": {"x": 1}}, openai.BadRequestError, "logit_bias"),
    ({"top_logprobs": 3}, openai.BadRequestError, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "stream_options"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else None)
def test_bad_requests_are_the_packages_errors(client, change, error, param):
    for stream in (False,) if "stream_options" in change else (False, True):
        with pytest.raises(error) as caught:
            client.chat.completions.create(**{**ASK, **change, "stream": stream})
        body = caught.value.body
        assert caught.value.param == body["param"] == param and body["message"] and body["type"] and caught.value.request_id
    if len(str(change)) > 4000 or change.get("max_tokens"):
        assert re.search(r"maximum context length is 2048 tokens", str(caught.value))
        assert caught.value.code == "context_length_exceeded"


def test_wrong_key_is_an_authentication_error(start_demo):
    server = start_demo("--max-model-len", "256", env={"ATOM_API_KEY": " sk-right\n"})
    for key in ("wrong", "sk-right2", "sk-righ"):
        with pytest.raises(openai.AuthenticationError) as caught:
            openai.OpenAI(base_url=server.base + "/v1", api_key=key, max_retries=0).models.list()
        assert caught.value.code == "invalid_api_key"
    client = openai.OpenAI(base_url=server.base + "/v1", api_key="sk-right", max_retries=0)
    assert client.chat.completions.create(**{**ASK, "max_tokens": 1}).choices
    assert httpx.get(server.base + "/health").status_code == httpx.get(server.base + "/metrics").status_code == 200
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=NAME, input="a")
    assert server.stop() == 0


def test_a_full_queue_is_retried_after_the_time_it_names(start_demo):
    server = start_demo("--max-num-seqs", "1", "--max-queued-requests", "0", "--max-model-len", "2048")
    client = openai.OpenAI(base_url=server.base + "/v1", api_key="none", max_retries=0, timeout=60)
    busy = client.completions.create(**ENDLESS, stream=True)
    next(iter(busy))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**ASK)
    assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "1"
    busy.close()
    assert wait_until(lambda: server.metric("atom:num_sequences_in_flight") == 0)
    busy = client.completions.create(**{**ENDLESS, "max_tokens": 60}, stream=True)
    next(iter(busy))
    patient = client.with_options(max_retries=5).chat.completions.with_raw_response.create(**ASK)
    assert patient.retries_taken > 0 and patient.parse().choices[0].message.content
    busy.close()
    assert server.stop() == 0


def test_time_out_and_cancel_free_the_request(client, demo):
    before = demo.metric("vllm:request_success_total", finished_reason="abort")
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).completions.create(**ENDLESS)
    stream = client.completions.create(**ENDLESS, stream=True)
    for _, _chunk in zip(range(3), stream):
        pass
    stream.close()

    async def cancel():
        async with openai.AsyncOpenAI(base_url=demo.base + "/v1", api_key="none", max_retries=0) as aclient:
            task = asyncio.create_task(aclient.completions.create(**ENDLESS))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert wait_until(lambda: demo.metric("atom:num_sequences_in_flight") == 0)
    assert demo.metric("vllm:request_success_total", finished_reason="abort") == before + 3
    assert client.chat.completions.create(**ASK).choices
