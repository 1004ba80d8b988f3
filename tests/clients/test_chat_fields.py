"""Fields of /v1/chat/completions that change the prompt or the form of the answer, on a real model."""
import json

import httpx
import pytest

from demo import NAME
from raw_http import post
from sse import assemble, events

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Name three colours."}]
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}


@pytest.fixture(scope="module")
def http(demo):
    with httpx.Client(base_url=demo.base, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def chat(http):
    def run(messages=HI, **fields):
        answer = http.post(CHAT, json={"messages": messages, "max_tokens": 8, "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()
    return run


def prompt_of(chat, http, messages=HI, **fields):
    ids = chat(messages, return_token_ids=True, max_tokens=1, **fields)["prompt_token_ids"]
    return http.post("/detokenize", json={"tokens": ids}).json()["prompt"]


def said(answer):
    return answer["choices"][0]["message"]["content"]


def test_the_prompt_that_the_template_makes(chat, http):
    plain = prompt_of(chat, http)
    assert plain.endswith("<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n") and plain.count("<|im_start|>") == 3
    assert prompt_of(chat, http, add_generation_prompt=False) == plain.removesuffix("<|im_start|>assistant\n")
    begun = [*HI, {"role": "assistant", "content": "Red, green"}]
    assert prompt_of(chat, http, begun, continue_final_message=True) == plain + "Red, green"
    assert prompt_of(chat, http, begun).endswith("Red, green<|im_end|>\n<|im_start|>assistant\n")
    parts = [{"role": "user", "content": [{"type": "text", "text": "Name three "}, {"type": "text", "text": "colours."}]}]
    assert "Name three \ncolours.<|im_end|>" in prompt_of(chat, http, parts)
    assert prompt_of(chat, http, chat_template_kwargs={"enable_thinking": False, "unknown": 1}) == plain
    assert prompt_of(chat, http, add_special_tokens=False) == plain


def test_prompt_is_an_alias_of_messages(chat, http):
    answer = http.post(CHAT, json={"prompt": HI, "max_tokens": 8, "temperature": 0})
    assert answer.status_code == 200 and said(answer.json()) == said(chat())


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url", "file"])
def test_other_content_parts_are_refused_by_name(http, kind):
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind, kind: {"url": "data:,"}}]}]}
    error = http.post(CHAT, json=body).json()["error"]
    assert kind in error["message"] and error["param"].startswith("messages")


def test_tools_reach_no_model_without_a_format_and_past_calls_are_taken(chat):
    assert said(chat(tools=[TOOL], tool_choice="none")) and chat(tools=[])["choices"][0]["finish_reason"] == "length"
    past = [*HI, {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function", "function": {
        "name": "get_weather", "arguments": json.dumps({"city": "Paris"})}}]}, {"role": "tool", "tool_call_id": "a", "content": "22"}]
    assert chat(past)["choices"][0]["message"]["role"] == "assistant"


def test_token_ids_in_place_of_texts(chat):
    answer = chat(logprobs=True, top_logprobs=1, return_tokens_as_token_ids=True, return_token_ids=True)
    choice = answer["choices"][0]
    assert [e["token"] for e in choice["logprobs"]["content"]] == [f"token_id:{i}" for i in choice["token_ids"]]
    assert len(answer["prompt_token_ids"]) == answer["usage"]["prompt_tokens"]


def test_prompt_logprobs(chat, http):
    answer = http.post("/v1/completions", json={"prompt": "The sky is", "max_tokens": 1, "prompt_logprobs": 2, "temperature": 0}).json()
    rows = answer["choices"][0]["prompt_logprobs"]
    assert rows[0] is None and len(rows) == answer["usage"]["prompt_tokens"]
    echoed = http.post("/v1/completions", json={"prompt": "The sky is", "max_tokens": 0, "echo": True, "logprobs": 2}).json()
    values = echoed["choices"][0]["logprobs"]["token_logprobs"]
    for row, value in zip(rows[1:], values[1:], strict=True):
        assert 2 <= len(row) <= 3 and value in [entry["logprob"] for entry in row.values()]
        assert all(set(entry) == {"logprob", "rank", "decoded_token"} and entry["rank"] >= 1 for entry in row.values())
    assert len(chat(prompt_logprobs=0)["prompt_logprobs"]) > 10


def test_usage_in_every_chunk(demo):
    with demo.raw().connect() as connection:
        connection.send(post(CHAT, {"messages": HI, "max_tokens": 6, "stream": True, "ignore_eos": True,
                                    "stream_options": {"include_usage": True, "continuous_usage_stats": True}}))
        data = connection.response()[2]
    counts = [event["usage"]["completion_tokens"] for event in events(data)]
    assert counts == sorted(counts) and counts[-1] == 6 and assemble(data, True)[1]["completion_tokens"] == 6


@pytest.mark.parametrize("body,param", [
    ({}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": [5]}, "messages[0]"), ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0].role"), ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": HI, "tools": "x"}, "tools"), ({"messages": HI, "tools": [{"type": "function"}]}, "tools[0]"),
    ({"messages": HI, "tool_choice": "maybe"}, "tool_choice"), ({"messages": HI, "response_format": {"type": "poem"}}, "response_format"),
    ({"messages": HI, "max_completion_tokens": 0}, "max_completion_tokens"), ({"messages": HI, "chat_template": "{{ x }}"}, "chat_template"),
    ({"messages": HI, "logprobs": 5}, "logprobs"), ({"messages": HI, "top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"messages": HI, "modalities": ["audio"]}, "modalities"), ({"messages": HI, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({"messages": HI, "functions": [{"name": "f"}]}, "functions"), ({"messages": HI, "continue_final_message": True, "add_generation_prompt": True},
                                                                   "continue_final_message"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_bad_values_name_their_field(http, body, param):
    answer = http.post(CHAT, json={"model": NAME, "max_tokens": 1, **body})
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith(param), answer.text
