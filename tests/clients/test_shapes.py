"""Programs that cannot be installed here, by the exact requests they send and the way they read the answers: lm-eval
(local-completions, local-chat-completions), ATOM's benchmark_serving and vLLM's, Open WebUI; and curl itself, and the
parser of prometheus_client. The shapes are those of lm_eval/models/openai_completions.py and api_models.py of 0.4.13,
of backend_request_func.py, and of Open WebUI's OpenAI router."""
import concurrent.futures
import json
import subprocess
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from demo import NAME
from raw_http import post

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def http(demo):
    with httpx.Client(base_url=demo.base, timeout=120, headers={"Authorization": "Bearer EMPTY"}) as client:
        yield client


class LmEval:
    """local-completions: contexts and continuations are joined as token ids, scored by one forward of the prompt."""

    def __init__(self, http):
        self.http = http
        info = http.get("/tokenizer_info").json()
        assert isinstance(info, dict) and info["eos_token"] == "<|im_end|>"
        assert isinstance(self._tokens("test", add_special_tokens=False), list)

    def _tokens(self, text, **options):
        return self.http.post("/tokenize", json={"prompt": text, **options}).json()["tokens"]

    def loglikelihood(self, pairs, as_text=False):
        requests, lengths = [], []
        for context, continuation in pairs:
            ids = self._tokens(context + continuation, add_special_tokens=False)
            lengths.append(len(self._tokens(context, add_special_tokens=False)))
            requests.append(context + continuation if as_text else ids)
        answer = self.http.post(COMPLETIONS, json={
            "model": NAME, "prompt": requests, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True})
        assert answer.status_code == 200, answer.text
        out = []
        choices = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
        for choice, length, request in zip(choices, lengths, requests, strict=True):
            logprobs = choice["logprobs"]
            values, tops = logprobs["token_logprobs"], logprobs["top_logprobs"]
            if not as_text:
                assert len(values) == len(tops) == len(request) + 1  # exactly one token is generated
            assert values[0] is None and tops[0] is None
            greedy = all(value == max(top.values()) for value, top in zip(values[length:-1], tops[length:-1]))
            out.append((sum(values[length:-1]), greedy))
        return out

    def generate_until(self, prompts, until, **kwargs):
        answer = self.http.post(COMPLETIONS, json={
            "prompt": prompts, "model": NAME, "max_tokens": 24, "temperature": 0, "stop": until, "seed": 1234, **kwargs})
        assert answer.status_code == 200, answer.text
        texts = [None] * len(prompts)
        for choice in answer.json()["choices"]:
            texts[choice["index"]] = choice["text"]
        return texts


PAIRS = [("The capital of France is", " Paris"), ("The capital of France is", " cheese"), ("1 2 3 4 5", " 6"), ("1 2 3 4 5", " 9"),
         ("Once upon a time", ", there was a little girl"), ("The naïve café in 東京 sells 🎉", " and 🎈 too")]


def test_lm_eval_loglikelihood(http):
    model = LmEval(http)
    scores = model.loglikelihood(PAIRS)
    assert scores[0][0] > scores[1][0] and scores[2][0] > scores[3][0] and not scores[1][1] and not scores[3][1]
    # Whatever the batch, and whatever the prefix cache already holds.
    assert model.loglikelihood(PAIRS[::-1]) == scores[::-1]
    assert [model.loglikelihood([pair])[0] for pair in PAIRS[:3]] == scores[:3]
    assert model.loglikelihood(PAIRS[:5], as_text=True) == scores[:5]
    context = "The quick brown fox jumps over the lazy dog. " * 8  # several cache blocks
    assert model.loglikelihood([(context, "The quick")]) == model.loglikelihood([(context, "The quick")])


def test_lm_eval_scores_what_generation_does(http):
    model = LmEval(http)
    for context in ("The capital of France is", "Once upon a time", "def f(x):\n    return"):
        ids = model._tokens(context, add_special_tokens=False)
        made = http.post(COMPLETIONS, json={"prompt": ids, "max_tokens": 6, "temperature": 0, "logprobs": 1, "return_token_ids": True})
        made = made.json()["choices"][0]
        body = {"prompt": [ids + made["token_ids"]], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        scored = http.post(COMPLETIONS, json=body).json()["choices"][0]["logprobs"]
        for key in ("tokens", "token_logprobs", "top_logprobs"):  # to the last digit: decoding and scoring are one computation
            assert scored[key][len(ids):-1] == made["logprobs"][key]


def test_lm_eval_generate_until(http):
    model = LmEval(http)
    stops = ["\n\n", "Question:", "</s>", "<|im_end|>", "Q:", "###"]
    texts = model.generate_until(["Question: 2+2?\nAnswer:", "Question: 3+3?\nAnswer:"], stops)
    assert all(text and not any(stop in text for stop in stops) for text in texts)
    ids = [model._tokens(prompt) for prompt in ("Question: 2+2?\nAnswer:", "Question: 3+3?\nAnswer:")]
    assert model.generate_until(ids, stops) == texts and model.generate_until(ids[:1], []) [0].startswith(texts[0])
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # num_concurrent
        assert set(pool.map(lambda _: model.generate_until(ids[:1], stops)[0], range(16))) == {texts[0]}


def test_lm_eval_rolling_loglikelihood(http):
    """The first window begins with the prefix token, so every token of the text has a score."""
    model = LmEval(http)
    prefix = model._tokens("<|im_end|>", add_special_tokens=False)
    assert len(prefix) == 1
    ids = prefix + model._tokens("A text of some words.", add_special_tokens=False)
    body = {"model": NAME, "prompt": [ids], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    values = http.post(COMPLETIONS, json=body).json()["choices"][0]["logprobs"]["token_logprobs"]
    assert len(values) == len(ids) + 1 and all(value < 0 for value in values[1:])


def test_lm_eval_without_a_key(demo):
    """aiohttp sends what lm-eval makes of an unset OPENAI_API_KEY: the word Bearer and nothing after it."""
    with demo.raw().connect() as connection:
        connection.send(post(COMPLETIONS, {"prompt": "a", "max_tokens": 1}, "Authorization: Bearer "))
        assert connection.response()[0] == 200


def test_lm_eval_chat(http):
    answer = http.post(CHAT, json={"messages": [{"role": "user", "content": "Say hi.", "type": "text"}], "model": NAME, "max_tokens": 8,
                                   "temperature": 0, "stop": ["\n\n"], "seed": 1234}).json()
    assert answer["choices"][0]["message"]["content"] and answer["choices"][0]["index"] == 0


def benchmark(http, path, body, headers):
    """async_request_openai_completions of benchmark_serving: every line that is not empty is stripped of `data: ` and,
    until [DONE], must be JSON."""
    out = {"text": "", "itl": [], "ttft": None, "output_tokens": None}
    last = time.perf_counter()
    with http.stream("POST", path, json=body, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            line = line.strip()
            if not line:
                continue
            piece = line.removeprefix("data: ")
            if piece == "[DONE]":
                continue
            data = json.loads(piece)
            if data["choices"]:
                now = time.perf_counter()
                if out["ttft"] is None:
                    out["ttft"] = now - last
                else:
                    out["itl"].append(now - last)
                last = now
                choice = data["choices"][0]
                out["text"] += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            elif data["usage"]:
                out["output_tokens"], out["input_tokens"] = data["usage"]["completion_tokens"], data["usage"]["prompt_tokens"]
    return out


@pytest.mark.parametrize("flavour", ["atom completions", "atom chat", "vllm completions", "vllm chat"])
def test_serving_benchmarks(http, flavour):
    prompt, count = "Once upon a time there was", 20
    stream = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
    headers = {"Authorization": "Bearer None"}
    content = [{"type": "text", "text": prompt}]
    path, body = {
        "atom completions": (COMPLETIONS, {"prompt": prompt, "temperature": 0.0, "best_of": 1, "max_tokens": count, "logprobs": None}),
        "atom chat": (CHAT, {"messages": [{"role": "user", "content": content}], "temperature": 0.0, "max_completion_tokens": count}),
        "vllm completions": (COMPLETIONS, {"prompt": prompt, "temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": count,
                                           "logprobs": None}),
        "vllm chat": (CHAT, {"messages": [{"role": "user", "content": content}], "temperature": 0.0, "max_completion_tokens": count}),
    }[flavour]
    if flavour.startswith("vllm"):
        headers["x-request-id"] = "bench-1"
    out = benchmark(http, path, {"model": NAME, **body, **stream}, headers)
    assert out["text"] and out["ttft"] > 0 and out["output_tokens"] == count and out["input_tokens"] > 0
    assert len(out["itl"]) <= count - 1


def test_profile_requests_are_refused_by_name(http):
    body = {"model": NAME, "prompt": "a", "temperature": 0.0, "best_of": 1, "max_tokens": 1, "logprobs": None}
    for path in ("/start_profile", "/stop_profile"):
        answer = http.post(path, json=body)
        assert answer.status_code == 400 and "profiler" in answer.json()["error"]["message"]


def test_open_webui(http):
    models = http.get("/v1/models", headers={"Authorization": "Bearer sk-x"}).json()["data"]
    assert models[0]["id"] == NAME and models[0]["object"] == "model" and models[0]["max_model_len"] == 2048
    body = {"stream": True, "model": NAME, "messages": [{"role": "user", "content": "hi"}], "params": {}, "files": [], "features": {},
            "variables": {"{{USER_NAME}}": "a"}, "session_id": "s", "chat_id": "c", "id": "i", "background_tasks": {"title_generation": True},
            "stream_options": {"include_usage": True}, "max_tokens": 8, "temperature": 0.8, "stop": [], "metadata": {"x": None}}
    assert benchmark(http, CHAT, body, {})["output_tokens"] == 8
    body = {"model": NAME, "messages": [{"role": "user", "content": "### Task: a title"}], "stream": False, "max_completion_tokens": 8}
    assert http.post(CHAT, json=body).json()["choices"][0]["message"]["content"]


def test_curl(demo):
    def curl(*arguments, stdin=""):
        run = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "60", *arguments],
                             input=stdin, capture_output=True, text=True, check=False)
        return run.returncode, run.stdout

    body = json.dumps({"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 8})
    code, out = curl(demo.base + CHAT, "-H", "Content-Type: application/json", "-d", body)
    assert code == 0 and json.loads(out)["choices"][0]["message"]["content"]
    code, out = curl("-N", demo.base + CHAT, "-d", body[:-1] + ', "stream": true}')  # sent as a form: still JSON
    assert code == 0 and out.endswith("data: [DONE]\n\n")
    code, out = curl("--fail", demo.base + CHAT, "-d", "{}")
    assert code == 22 and out == ""
    assert curl("--head", demo.base + "/v1/models")[1].startswith("HTTP/1.1 200 OK")
    endless = json.dumps({"prompt": "a", "max_tokens": 1900, "ignore_eos": True, "stream": True})
    assert curl("-N", "--max-time", "0.5", demo.base + COMPLETIONS, "-d", endless)[0] == 28
    code, out = curl(demo.base + "/tokenize", "-d", "@-", stdin=json.dumps({"prompt": "a " * 600000}))  # waits for 100 Continue
    assert code == 0 and json.loads(out)["count"] >= 600000
    assert curl("-H", "Transfer-Encoding: chunked", demo.base + "/tokenize", "-d", '{"prompt": "a"}')[0] == 0


def test_metrics_as_prometheus_reads_them(http):
    families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    assert families["vllm:prompt_tokens"].type == "counter" and families["vllm:num_requests_running"].type == "gauge"
    reasons = {s.labels["finished_reason"]: s.value for s in families["vllm:request_success"].samples if s.name.endswith("_total")}
    assert set(reasons) >= {"stop", "length", "abort", "error"} and reasons["length"] > 0
    for name, family in families.items():
        if name.startswith("vllm:") and name != "vllm:cache_config_info":
            assert family.documentation and all(sample.labels["model_name"] == NAME for sample in family.samples), name
