"""LiteLLM by the routes its documentation gives for a server of one's own: openai/, hosted_vllm/, text-completion-openai/."""
import asyncio

import litellm
import pytest

from demo import NAME
from running_server import wait_until

MESSAGES = [{"role": "user", "content": "Name three colours."}]
litellm.telemetry = False
litellm.num_retries = 0


@pytest.fixture(params=["openai/", "hosted_vllm/"])
def ask(request, base_url):
    return {"model": request.param + NAME, "api_base": base_url, "api_key": "none", "messages": MESSAGES, "max_tokens": 8,
            "temperature": 0}


def test_whole_and_stream(ask):
    whole = litellm.completion(**ask)
    assert whole.choices[0].message.content and whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 8
    chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert built.choices[0].message.content == whole.choices[0].message.content and built.choices[0].finish_reason == "length"
    assert [c.usage.completion_tokens for c in chunks if getattr(c, "usage", None)] == [8]


def test_async_stream(ask):
    async def run():
        return [c async for c in await litellm.acompletion(**ask, stream=True)]

    assert "".join(c.choices[0].delta.content or "" for c in asyncio.run(run()))


def test_logprobs_and_choices(ask):
    answer = litellm.completion(**{**ask, "temperature": 1.0}, n=2, logprobs=True, top_logprobs=2, seed=1, stop=["zzz"])
    assert [c.index for c in answer.choices] == [0, 1] and len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_text_completion(base_url):
    ask = {"model": "text-completion-openai/" + NAME, "api_base": base_url, "api_key": "none", "max_tokens": 4, "temperature": 0}
    whole = litellm.text_completion(prompt="The sky is", **ask)
    assert whole.choices[0].text
    assert "".join(c.choices[0].text or "" for c in litellm.text_completion(prompt="The sky is", **ask, stream=True)) == whole.choices[0].text


@pytest.mark.parametrize("change,error", [
    ({"model": "openai/other"}, litellm.NotFoundError), ({"temperature": 5}, litellm.BadRequestError),
    ({"messages": [{"role": "user", "content": "a " * 4000}]}, litellm.ContextWindowExceededError)])
def test_errors(base_url, change, error):
    ask = {"model": "openai/" + NAME, "api_base": base_url, "api_key": "none", "messages": MESSAGES, "max_tokens": 8, **change}
    for stream in (False, True):
        with pytest.raises(error):
            litellm.completion(**ask, stream=stream)


def test_cancel(ask, demo):
    async def run():
        stream = await litellm.acompletion(**{**ask, "max_tokens": 1900}, stream=True, ignore_eos=True)
        async for _ in stream:
            break
        task = asyncio.create_task(litellm.acompletion(**{**ask, "max_tokens": 1900}, ignore_eos=True))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert wait_until(lambda: demo.metric("atom:num_sequences_in_flight") == 0)
