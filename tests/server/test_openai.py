"""The routes through the official openai package, and what other clients read in the answers."""
import json
import random
import re

import httpx
import openai
import pytest

from conftest import TEMPLATE

GREEDY = {"temperature": 0, "max_tokens": 16, "extra_body": {"ignore_eos": True}}
MESSAGES = [{"role": "user", "content": "a b c"}]


def stream_text(chunks):
    """Concatenated text per index, finish reasons per index, usage."""
    text, reasons, usage = {}, {}, None
    for chunk in chunks:
        if not chunk.choices:
            usage = chunk.usage
        for choice in chunk.choices:
            piece = choice.delta.content if hasattr(choice, "delta") else choice.text
            text[choice.index] = text.get(choice.index, "") + (piece or "")
            if choice.finish_reason:
                reasons.setdefault(choice.index, []).append(choice.finish_reason)
    return text, reasons, usage


def test_chat(client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, **GREEDY)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == "tiny"
    assert choice.message.role == "assistant" and choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 16
    for name in ("ttft_s", "tpot_s", "latency_s"):
        assert getattr(answer.usage, name) >= 0
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_chat_stream_equals_whole(client):
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, n=3, **GREEDY)
    chunks = list(client.chat.completions.create(model="tiny", messages=MESSAGES, n=3, stream=True,
                                                 stream_options={"include_usage": True}, **GREEDY))
    text, reasons, usage = stream_text(chunks)
    assert text == {c.index: c.message.content for c in whole.choices}
    assert reasons == {c.index: [c.finish_reason] for c in whole.choices}
    assert usage.completion_tokens == whole.usage.completion_tokens == 48
    first = {}
    for chunk in chunks:
        for choice in chunk.choices:
            first.setdefault(choice.index, choice.delta.role)
    assert first == {0: "assistant", 1: "assistant", 2: "assistant"}
    assert all(chunk.choices for chunk in chunks[:-1]) and chunks[-1].choices == []


def test_no_usage_chunk_unless_asked_and_only_data_lines(server):
    body = {"prompt": "a", "max_tokens": 3, "temperature": 0, "stream": True}
    lines = httpx.post(server.base + "/v1/completions", json=body).text.splitlines()
    assert all(line == "" or line.startswith("data: ") for line in lines)
    payloads = [line[6:] for line in lines if line]
    assert payloads[-1] == "[DONE]"
    assert all(json.loads(p)["choices"] for p in payloads[:-1])


def test_times_of_usage_have_four_decimals(server):
    body = {"prompt": "a", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    stream = {**body, "stream": True, "stream_options": {"include_usage": True}}
    for text in (httpx.post(server.base + "/v1/completions", json=b).text for b in (body, stream)):
        times = [re.findall(rf'"{name}":(\d+\.\d+)[,}}]', text) for name in ("ttft_s", "tpot_s", "latency_s")]
        assert all(len(found) == 1 and re.fullmatch(r"\d+\.\d{4}", found[0]) for found in times), text
        ttft, _, latency = (float(found[0]) for found in times)
        assert 0 <= ttft <= latency


def test_random_prompts_and_stops_stream_equal_whole(client):
    random.seed(7)
    for _ in range(25):
        prompt = "".join(random.choice("abcdefgh \n\u00e9\u4e2d\U0001f600") for _ in range(random.randint(1, 40)))
        args = {"model": "tiny", "prompt": prompt, "max_tokens": 24, "temperature": 1.0, "seed": random.getrandbits(60),
                "extra_body": {"ignore_eos": True}}
        free = client.completions.create(**args).choices[0].text
        stop = []
        if len(free) > 4:
            at = random.randrange(len(free) - 2)
            stop = [free[at:at + random.randint(1, 3)], "never this"]
        whole = client.completions.create(**args, stop=stop)
        text, reasons, _ = stream_text(client.completions.create(**args, stop=stop, stream=True))
        assert text[0] == whole.choices[0].text and reasons[0] == [whole.choices[0].finish_reason]
        if stop:
            assert free.startswith(text[0]) and not any(s in text[0] for s in stop)
            assert whole.choices[0].finish_reason == "stop"


def test_prompt_forms(client):
    whole = client.completions.create(model="tiny", prompt="a b", **GREEDY)
    ids = client.post("/../tokenize", body={"prompt": "a b"}, cast_to=object)["tokens"]
    for prompt in (["a b"], ids, [ids]):
        assert client.completions.create(model="tiny", prompt=prompt, **GREEDY).choices[0].text == whole.choices[0].text
    many = client.completions.create(model="tiny", prompt=["a b", "c", "d e f"], n=2, **GREEDY)
    assert [c.index for c in many.choices] == list(range(6))
    assert many.choices[0].text == many.choices[1].text == whole.choices[0].text


def test_loglikelihood_contract(client):
    prompts = [[5, 6, 7, 8], [9, 10]]
    answer = client.completions.create(model="tiny", prompt=prompts, max_tokens=1, temperature=0, logprobs=1, echo=True)
    assert answer.usage.completion_tokens == 2
    for choice, prompt in zip(answer.choices, prompts):
        lp = choice.logprobs
        assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset) == len(prompt) + 1
        assert lp.token_logprobs[0] is None and lp.top_logprobs[0] is None
        for token, value, top in list(zip(lp.tokens, lp.token_logprobs, lp.top_logprobs))[1:]:
            assert token in top and value <= max(top.values())
        assert lp.token_logprobs[-1] == max(lp.top_logprobs[-1].values())  # greedy: exactly the most likely
    scored = client.completions.create(model="tiny", prompt=prompts[0], max_tokens=0, logprobs=1, echo=True)
    assert scored.choices[0].logprobs.token_logprobs == answer.choices[0].logprobs.token_logprobs[:-1]
    assert scored.usage.completion_tokens == 0


def test_echo_and_token_ids(client):
    answer = client.completions.create(model="tiny", prompt="a b", echo=True, max_tokens=4, temperature=0,
                                       logprobs=0, extra_body={"ignore_eos": True, "return_token_ids": True,
                                                               "return_tokens_as_token_ids": True})
    choice = answer.choices[0]
    assert choice.text.startswith("a b") and len(choice.token_ids) == 4
    assert choice.logprobs.tokens == [f"token_id:{i}" for i in choice.prompt_token_ids + choice.token_ids]
    text, _, _ = stream_text(client.completions.create(model="tiny", prompt="a b", echo=True, max_tokens=4, temperature=0,
                                                       stream=True, extra_body={"ignore_eos": True}))
    assert text[0] == choice.text


def test_chat_logprobs_have_raw_bytes(client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True, top_logprobs=3, **GREEDY)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == 16
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == max(t.logprob for t in entry.top_logprobs)
        assert entry.bytes == entry.top_logprobs[0].bytes
    joined = bytes(b for entry in entries for b in entry.bytes)
    assert joined.decode("utf-8", "replace").startswith(answer.choices[0].message.content[:1])


def test_seed_does_not_depend_on_company(client):
    def one():
        return client.completions.create(model="tiny", prompt="a", max_tokens=12, seed=11, extra_body={"ignore_eos": True}).choices[0].text
    alone = one()
    batch = client.completions.create(model="tiny", prompt=["b", "a", "c"], max_tokens=12, seed=11, extra_body={"ignore_eos": True})
    assert batch.choices[1].text == alone == one()


def test_messages_forms(client, server):
    def answer(messages):
        return client.chat.completions.create(model="tiny", messages=messages, **GREEDY).choices[0].message.content

    plain = answer(MESSAGES)
    parts = [{"role": "user", "content": [{"type": "text", "text": "a b"}, {"type": "text", "text": "c"}]}]
    assert answer(parts) == answer([{"role": "user", "content": "a b\nc"}])  # parts are lines
    one_part = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in MESSAGES]
    assert answer(one_part) == plain
    alias = httpx.post(server.base + "/v1/chat/completions", json={"prompt": MESSAGES, "temperature": 0, "max_tokens": 16, "ignore_eos": True})
    assert alias.json()["choices"][0]["message"]["content"] == plain
    call = {"id": "x", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
    history = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "sun", "tool_call_id": "x"}]
    tokens = httpx.post(server.base + "/tokenize", json={"messages": history, "add_generation_prompt": False}).json()["tokens"]
    text = httpx.post(server.base + "/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert "Bonn" in text.replace(" ", "") and "{" not in text  # the template got an object, not JSON text
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    assert client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[tool], tool_choice="auto", **GREEDY).choices


BAD = [
    ({"messages": []}, "messages"), ({"messages": None}, "messages"), ({"messages": "a"}, "messages"),
    ({"messages": [None]}, "messages[0]"), ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"), ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]}, "messages[0].content[0].type"),
    ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"), ({"max_tokens": 10**18}, "max_tokens"),
    ({"temperature": -1}, "temperature"), ({"temperature": 2.1}, "temperature"), ({"top_p": 0}, "top_p"), ({"n": 0}, "n"), ({"n": 5000000}, "n"),
    ({"n": 1.5}, "n"), ({"best_of": 1, "n": 2}, "best_of"), ({"seed": 2**63}, "seed"), ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"), ({"stop": ""}, "stop"), ({"stop": ["a"] * 17}, "stop"), ({"stop": [None]}, "stop[0]"),
    ({"min_tokens": 300}, "min_tokens"), ({"stream_options": {}}, "stream_options"), ({"stream": "true"}, "stream"),
    ({"logit_bias": {"x": 1}}, "logit_bias"), ({"logit_bias": {"99999999": 1}}, "logit_bias"), ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"), ({"tools": [{"type": 5}]}, "tools[0].type"), ({"tool_choice": "required"}, "tool_choice"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"), ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
]


@pytest.mark.parametrize("fields,param", BAD, ids=[f"{i}-{p}" for i, (_, p) in enumerate(BAD)])
def test_bad_fields_are_named(server, fields, param):
    answer = httpx.post(server.base + "/v1/chat/completions", json={"messages": MESSAGES, **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert len(error["message"]) < 600


def test_errors_map_to_the_clients_classes(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert missing.value.param == "model" and missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="maximum context length is [0-9]+ tokens") as long:
        client.completions.create(model="tiny", prompt="a " * 100000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="suffix"):
        client.completions.create(model="tiny", prompt="a", suffix="b")


def test_unknown_fields_and_nulls_are_ignored(server):
    body = {"prompt": "a", "max_tokens": 2, "best_of": 1, "logprobs": None, "stop": [], "user": "me", "metadata": {"a": [1]}, "seed": None,
            "temperature": None, "stream": None, "n": None, "logit_bias": None, "suffix": None, "some_new_field": {"x": 1}, "response_format": {"type": "text"}}
    assert httpx.post(server.base + "/v1/completions", json=body).status_code == 200


def test_models_version_and_tokenizer(client, server):
    models = client.models.list().data
    assert [m.id for m in models] == ["tiny"] and models[0].owned_by == "atom" and models[0].max_model_len > 0
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a%2Fb")
    assert httpx.get(server.base + "/version").json()["version"]
    info = httpx.get(server.base + "/tokenizer_info").json()
    assert info["chat_template"] == TEMPLATE and {"eos_token", "bos_token"} <= info.keys()
    tokens = httpx.post(server.base + "/tokenize", json={"prompt": "test", "add_special_tokens": False, "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert httpx.post(server.base + "/detokenize", json={"tokens": [10**9]}).status_code == 400
    assert httpx.post(server.base + "/detokenize", json={"tokens": [True]}).status_code == 400


def test_context_left_clamps_max_tokens(client):
    limit = client.models.list().data[0].max_model_len
    answer = client.completions.create(model="tiny", prompt=[5] * (limit - 3), max_tokens=10, temperature=0, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.completions.create(model="tiny", prompt=[5] * limit, max_tokens=1)
