"""Every field of /v1/completions and of the small routes, on a real model: what is asked for is seen in the answer."""
import collections

import httpx
import pytest

from demo import NAME

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def http(demo):
    with httpx.Client(base_url=demo.base, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def complete(http):
    def run(prompt="The sky is", path=COMPLETIONS, **fields):
        body = {"prompt": prompt} if path == COMPLETIONS else {"messages": [{"role": "user", "content": prompt}]}
        answer = http.post(path, json={**body, "max_tokens": 8, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()
    return run


def texts(answer):
    return [c["text"] if "text" in c else c["message"]["content"] for c in answer["choices"]]


def tokens(http, text):
    return http.post("/tokenize", json={"prompt": text}).json()["tokens"]


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_echo(http, complete, max_tokens):
    ids = tokens(http, "The sky is")
    for prompt in ("The sky is", ids, [ids], ["The sky is"]):
        answer = complete(prompt, echo=True, max_tokens=max_tokens, logprobs=2, temperature=0, n=2)
        assert [c["index"] for c in answer["choices"]] == [0, 1] and answer["choices"][0]["text"] == answer["choices"][1]["text"]
        choice = answer["choices"][0]
        assert choice["text"].startswith("The sky is") and choice["finish_reason"] == "length"
        lists = choice["logprobs"]
        assert {len(items) for items in lists.values()} == {len(ids) + max_tokens} and "".join(lists["tokens"]) == choice["text"]
        assert lists["token_logprobs"][0] is None and lists["top_logprobs"][0] is None
        assert all(2 <= len(top) <= 3 and token in top for token, top in zip(lists["tokens"][1:], lists["top_logprobs"][1:]))
        assert answer["usage"]["completion_tokens"] == 2 * max_tokens and answer["usage"]["prompt_tokens"] == len(ids)
    assert texts(complete("The sky is", echo=True, max_tokens=max_tokens))[0].startswith("The sky is")


def test_text_offset_points_into_the_text(complete):
    for prompt in ("Plain words", "naïve 東京 🎉 and 😀"):
        choice = complete(prompt, echo=True, logprobs=0, max_tokens=20, temperature=0.8, seed=3, ignore_eos=True)["choices"][0]
        text, lists = choice["text"], choice["logprobs"]
        checked = 0
        for token, offset in zip(lists["tokens"], lists["text_offset"]):
            if "\ufffd" not in token and not token.startswith("<|"):
                assert text[offset:].startswith(token)
                checked += 1
        assert checked >= 20


def test_logprobs_zero_is_the_token_alone_and_chat_has_raw_bytes(complete):
    lists = complete(logprobs=0, temperature=0)["choices"][0]["logprobs"]
    assert all(list(top.items()) == [(token, value)] for token, value, top
               in zip(lists["tokens"], lists["token_logprobs"], lists["top_logprobs"]))
    assert complete()["choices"][0]["logprobs"] is None and complete(logprobs=None)["choices"][0]["logprobs"] is None
    answer = complete("Repeat: 🎉 東京", path=CHAT, logprobs=True, top_logprobs=3, max_tokens=24, temperature=0)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert all(set(e) == {"token", "logprob", "bytes", "top_logprobs"} and len(e["top_logprobs"]) == 3 for e in entries)
    assert all(e["logprob"] == max(t["logprob"] for t in e["top_logprobs"]) for e in entries)
    raw = b"".join(bytes(e["bytes"]) for e in entries)
    assert raw.decode("utf-8", "replace").removesuffix("<|im_end|>") == answer["choices"][0]["message"]["content"]
    assert complete("a", path=CHAT, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_a_seed_repeats_and_no_seed_does_not(complete):
    for path in (COMPLETIONS, CHAT):
        sampled = {"path": path, "temperature": 1.5, "max_tokens": 8, "ignore_eos": True}
        for seed in (-1, 2**63 - 1, -2**63):
            assert texts(complete(**sampled, seed=seed, n=3)) == texts(complete(**sampled, seed=seed, n=3))
        assert len(set(texts(complete(**sampled, seed=7, n=4)))) == 4
        assert texts(complete(**sampled, seed=7)) != texts(complete(**sampled, seed=8))
        assert texts(complete(**sampled)) != texts(complete(**sampled))
        assert texts(complete(**sampled, seed=7, n=4))[0] == texts(complete(**sampled, seed=7))[0]


def test_greedy_choices_are_equal_and_best_of_is_harmless(complete):
    plain = texts(complete(temperature=0))
    assert texts(complete(temperature=0, n=3)) == plain * 3
    assert texts(complete(temperature=0, n=2, best_of=2)) == plain * 2 and texts(complete(temperature=0, best_of=None)) == plain
    assert texts(complete(temperature=1e-9)) == texts(complete(top_k=1)) == texts(complete(top_p=1e-9)) == texts(complete(min_p=1)) == plain
    assert texts(complete(temperature=0, top_k=0, repetition_penalty=1.0, presence_penalty=None, suffix="", logprobs=None)) == plain


def test_penalties_and_bias_change_the_answer(http, complete):
    [comma] = tokens(http, ",")
    assert texts(complete(logit_bias={str(comma): 100}, max_tokens=4)) == [",,,,"]
    assert texts(complete(logit_bias={str(comma): 1e30}, max_tokens=4)) == [",,,,"]
    assert comma not in complete(logit_bias={str(comma): -100}, max_tokens=64, ignore_eos=True, return_token_ids=True)["choices"][0]["token_ids"]

    def most_repeated(**fields):  # times, in an answer of 48 greedy tokens
        answer = complete(temperature=0, max_tokens=48, ignore_eos=True, return_token_ids=True, **fields)
        return collections.Counter(answer["choices"][0]["token_ids"]).most_common(1)[0][1]

    plain = most_repeated()
    assert plain == most_repeated(frequency_penalty=0, presence_penalty=0, repetition_penalty=1) > 2
    assert most_repeated(repetition_penalty=0.5) > plain
    assert max(most_repeated(frequency_penalty=2), most_repeated(repetition_penalty=1.8)) < plain
    assert texts(complete(temperature=0, max_tokens=48, presence_penalty=2)) != texts(complete(temperature=0, max_tokens=48))


def test_every_way_to_end(http, complete):
    [comma] = tokens(http, ",")
    forced = {"logit_bias": {str(comma): 100}, "max_tokens": 6}

    def end(**fields):
        answer = complete(**forced, **fields)
        [choice] = answer["choices"]
        return choice["text"], choice["finish_reason"], choice["stop_reason"], answer["usage"]["completion_tokens"]

    assert end() == (",,,,,,", "length", None, 6)
    assert end(stop=",,,") == ("", "stop", ",,,", 3)
    assert end(stop=[",,,", "x"], include_stop_str_in_output=True) == (",,,", "stop", ",,,", 3)
    assert end(stop=[]) == end(stop=None) == end(stop=[f"no {i}" for i in range(16)]) == end()
    assert end(stop_token_ids=[comma]) == ("", "stop", comma, 1)
    assert end(stop_token_ids=[comma], include_stop_str_in_output=True) == (",", "stop", comma, 1)
    assert end(stop=",", min_tokens=3)[1:] == ("stop", ",", 4)
    eos = {"logit_bias": {str(tokens(http, "<|im_end|>")[0]): 100}, "max_tokens": 6}
    choice = complete(**eos)["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", None)
    choice = complete(**eos, ignore_eos=True, skip_special_tokens=False)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("<|im_end|>" * 6, "length")
    answer = complete(**eos, min_tokens=4)
    assert answer["choices"][0]["finish_reason"] == "stop" and answer["usage"]["completion_tokens"] == 5


def test_default_length_and_room_left(http, start_demo):
    answer = http.post(COMPLETIONS, json={"prompt": "Once upon a time", "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 256 and answer["choices"][0]["finish_reason"] == "length"
    small = start_demo("--max-model-len", "64")
    body = {"prompt": [504] * 60, "max_tokens": 50, "ignore_eos": True}
    for cached in (0, 48):  # whole blocks of 16
        answer = httpx.post(small.base + COMPLETIONS, json=body).json()
        assert answer["usage"]["completion_tokens"] == 4 and answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}
        assert answer["usage"]["latency_s"] >= answer["usage"]["ttft_s"] > 0 and answer["usage"]["tpot_s"] > 0
    for ids, max_tokens in (64, 1), (70, 1), (10, 65):
        error = httpx.post(small.base + COMPLETIONS, json={"prompt": [504] * ids, "max_tokens": max_tokens}).json()["error"]
        assert "maximum context length is 64 tokens" in error["message"] and error["code"] == "context_length_exceeded"
    assert small.stop() == 0


@pytest.mark.parametrize("field,values", [
    ("prompt", [None, "", [], [[]], [""], 5, {"a": 1}, ["a", [1]], [[1], "a"], [1, "a"], [True], [1.5], [-1], [10**9], [[1, None]]]),
    ("suffix", ["tail"]), ("best_of", [0, "2"]), ("n", [0, -1, 129, 1.5, "2", 10**30]), ("logprobs", [-1, 21, "2", True]),
    ("max_tokens", [-1, 1.5, "5", 2**70, 3000]), ("min_tokens", [-1, 9, "a"]), ("temperature", [-0.1, 2.1, "1", [1]]),
    ("top_p", [0, -1, 1.1, "1"]), ("top_k", [-2, 1.5, "a"]), ("min_p", [-0.1, 1.1]), ("presence_penalty", [-2.1, 2.1]),
    ("frequency_penalty", [-2.1, 2.1]), ("repetition_penalty", [0, -1]), ("seed", [1.5, "a", 2**64, 1e300]),
    ("stop", ["", [""], [1], 5, ["a"] * 17, "x" * 1025, {"a": 1}]), ("stop_token_ids", [5, ["a"], [10**9], [-1]]),
    ("logit_bias", [[], {"a": 1}, {"1": "a"}, {"1": None}, {"-1": 1}, {"99999999": 1}]), ("echo", [1, "true"]), ("stream", [1, "yes"]),
    ("stream_options", [{"include_usage": True}, [], {"include_usage": 1}]), ("ignore_eos", ["no"]), ("model", ["other", 5]),
    ("add_special_tokens", [5]), ("skip_special_tokens", ["a"]), ("include_stop_str_in_output", [2]),
], ids=lambda value: value if isinstance(value, str) else "")
def test_bad_values_name_their_field(http, field, values):
    for value in values:
        answer = http.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 8, field: value})
        error = answer.json()["error"]
        assert answer.status_code == (404 if value == "other" else 400), (value, answer.text)
        assert set(error) == {"message", "type", "param", "code"} and error["param"].startswith(field), (value, error)
        assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
        assert len(error["message"]) < 400


def test_tokenizer_routes(http):
    text = "Hello <|im_end|> naïve 東京 🎉"
    answer = http.post("/tokenize", json={"prompt": text, "return_token_strs": True, "model": NAME}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) and answer["max_model_len"] == 2048
    assert http.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": text}
    assert http.post("/tokenize", json={"content": text}).json()["tokens"] == answer["tokens"]
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    ids = http.post("/tokenize", json=chat).json()["tokens"]
    shown = http.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert shown.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    asked = http.post(CHAT, json={**chat, "max_tokens": 1}).json()
    assert asked["usage"]["prompt_tokens"] == len(ids)
    without = http.post("/tokenize", json={**chat, "add_generation_prompt": False}).json()["tokens"]
    assert ids[:len(without)] == without and len(without) < len(ids)
    for path, body, param in [("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 5}, "prompt"), ("/tokenize", {"messages": 5}, "messages"),
                              ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
                              ("/tokenize", {"prompt": "a", "model": "other"}, "model")]:
        error = http.post(path, json=body).json()["error"]
        assert error["param"] == param, error


def test_paths_that_are_not_served(http):
    for path in ("/v1/embeddings", "/v1/rerank", "/score", "/v1/responses", "/v1/audio/speech", "/v2/models", "/generate"):
        answer = http.post(path, json={"model": NAME, "input": "a"})
        assert answer.status_code == 404 and answer.json()["error"]["type"] == "not_found_error"
    for path in (COMPLETIONS, CHAT, "/tokenize"):
        answer = http.get(path)
        assert answer.status_code == 405 and "POST" in answer.headers["allow"] and answer.json()["error"]["code"] == 405
    for path in ("/v1/models", f"/v1/models/{NAME}", "/health", "/version", "/metrics", "/tokenizer_info"):
        head, full = http.head(path), http.get(path)
        assert head.status_code == full.status_code == 200 and head.content == b"" and head.headers["content-type"] == full.headers["content-type"]
        assert "GET" in http.options(path).headers["allow"]
