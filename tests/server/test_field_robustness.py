"""Every request field of the validator's table × values of the wrong type, out of range or absurd, over HTTP; then the
rows of adversarial bodies. Each is refused by name, and the same connection then serves a good request."""
import json

import httpx
import pytest

from adversary import CHAT, TINY, check_good, field_table, refused

PATHS = {"kChat": "/v1/chat/completions", "kCompletions": "/v1/completions"}
GOOD = {"kChat": CHAT, "kCompletions": TINY}
WRONG = {  # JSON texts, so that nothing is made valid on the way
    "kBool": ['"true"', "1", "0", "[]", "{}", "2.5"],
    "kInteger": ['"5"', "1.5", "true", "[]", "{}", "1e400", "-1e400", "1e99", "18446744073709551616", '"\\u0000"'],
    "kNumber": ['"1"', "true", "[1]", "{}", "1e400", "NaN", "1e39", "-1e39", "1e308"],
    "kString": ["5", "true", "[]", "{}"],
    "kArray": ["5", "true", "{}", '[{"a":null}]', "[[[[]]]]", "[1.5]", '["\\u0000"]', "[null]"],
    "kObject": ["5", "true", '"x"', "[]", "[{}]"],
    "kOther": ["5", "true", '{"type":5}', "[[]]", "[null]", '[{"\\u0000":1}]'],
    "kRefused": ['"x"', "1", "true", "[1]", '{"a":1}'],
}
OUTSIDE = {  # field: values outside its range
    "max_tokens": ["0", "-1", "2147483648", "1e18"], "max_completion_tokens": ["-1", "0", "2147483648"],
    "min_tokens": ["-1", "2147483648", "300"], "temperature": ["-1", "2.0001", "1e30"],
    "top_p": ["0", "-0.1", "1.1"], "top_k": ["-2", "2147483648"], "min_p": ["-0.1", "2"],
    "presence_penalty": ["-2.1", "100", "-100"], "frequency_penalty": ["2.1", "-100"],
    "repetition_penalty": ["0", "-1", "101"], "seed": ["9223372036854775808", "18446744073709551615", "-9223372036854775809"],
    "n": ["0", "-1", "129", "5000000"], "best_of": ["0", "-1"], "logprobs": ["-1", "21", "1e9"], "top_logprobs": ["-1", "21", "1e9"],
    "stop": ['""', '[""]', json.dumps(["a"] * 17), json.dumps("x" * 1025), json.dumps("x" * 1000000)],
    "stop_token_ids": ["[-1]", "[100000000]", "[2147483648]", "[9223372036854775808]", json.dumps([1] * 1025)],
    "logit_bias": ['{"-1":1}', '{"100000000":1}', '{"x":1}', '{"":1}', '{"1":"1"}', '{"1":null}',
                   json.dumps({str(i): 1 for i in range(1025)})],
}


def endpoints_of(name):
    return ["kChat", "kCompletions"] if name == "kBothEndpoints" else [name]


def body_with(endpoint, field, value):
    rest = {k: v for k, v in GOOD[endpoint].items() if k != field}
    return (json.dumps(rest)[:-1] + f', "{field}": {value}}}').encode()


@pytest.fixture(scope="module")
def connection(server):
    with httpx.Client(base_url=server.base, timeout=60, limits=httpx.Limits(max_connections=1)) as connection:
        yield connection


def check_refused_by_name(connection, endpoint, field, value):
    answer = connection.post(PATHS[endpoint], content=body_with(endpoint, field, value))
    assert answer.status_code == 400, f"{field} = {value[:60]}: {answer.status_code} {answer.text[:200]}"
    error = refused(answer, sent=value)
    if "JSON at byte" not in error["message"]:  # what is no JSON names its byte instead
        assert (error["param"] or "").startswith(field), f"{field} = {value[:60]}: {error}"


@pytest.mark.parametrize("field, endpoints, kind", field_table())
def test_wrong_types_are_refused_by_name(server, connection, field, endpoints, kind):
    for endpoint in endpoints_of(endpoints):
        for value in WRONG[kind]:
            if harmless(field, kind, value):
                continue
            check_refused_by_name(connection, endpoint, field, value)
        assert connection.post(PATHS[endpoint], content=body_with(endpoint, field, "null")).status_code == (
            400 if field in ("messages", "prompt") and field in GOOD[endpoint] else 200), f"{field}: null is its default"
        assert connection.post(PATHS[endpoint], json=GOOD[endpoint]).status_code == 200


def harmless(field, kind, value):
    """Values that the table accepts although their JSON type looks odd: each is meant."""
    if (field, value) in (("thinking", "true"), ("documents", '[{"a":null}]')):
        return True
    return field == "prompt" and kind == "kArray"  # in chat an alias: looked at only when messages is absent


@pytest.mark.parametrize("field", OUTSIDE)
def test_values_outside_the_range_are_refused_by_name(server, connection, field):
    rows = [row for row in field_table() if row[0] == field and row[2] != "kBool"]
    assert rows
    for _, endpoints, _ in rows:
        for endpoint in endpoints_of(endpoints):
            for value in OUTSIDE[field]:
                check_refused_by_name(connection, endpoint, field, value)
    check_good(server)


@pytest.mark.parametrize("field, value", [
    ("temperature", "1e-30"), ("temperature", "-0"), ("temperature", "2"), ("top_p", "1e-30"), ("n", "1.0"), ("max_tokens", "2e0"),
    ("seed", "-9223372036854775808"), ("seed", "9223372036854775807"), ("seed", "9007199254740993"), ("top_k", "-1"), ("top_k", "2147483647"),
    ("stop", json.dumps([chr(c) for c in range(33, 49)])), ("stop", '"\\u0000"'), ("stop", '"\\ud83d\\ude00"'),
    ("logit_bias", '{"1": 1e38, "2": -1e38}'), ("user", '"\\u0000\\n"'), ("metadata", json.dumps({"k": "v" * 1000000})), ("unheard_of", '{"a":[1]}'),
    ("prompt", '"a\\u0000b"'), ("prompt", '"\\u200d\\ufeff\\u202e"'),
])
def test_odd_but_valid_values_work(server, connection, field, value):
    answer = connection.post("/v1/completions", content=body_with("kCompletions", field, value))
    assert answer.status_code == 200, answer.text


BODIES = {  # name: (body, param or None)
    "empty": (b"", None), "white": (b"  \r\n\t", None), "cut": (b'{"prompt":', None), "list": (b"[]", None), "string": (b'"a"', None),
    "number": (b"1", None), "null": (b"null", None), "trailing": (b'{"prompt":"a"}x', None),
    "two documents": (b'{"prompt":"a"}{"prompt":"a"}', None), "comment": (b'{"prompt":"a"/**/}', None),
    "trailing comma": (b'{"prompt":"a",}', None), "single quotes": (b"{'prompt':'a'}", None), "BOM": (b'\xef\xbb\xbf{"prompt":"a"}', None),
    "UTF-16": ('{"prompt":"a"}'.encode("utf-16"), None), "NaN": (b'{"prompt":"a","temperature":NaN}', None),
    "Infinity": (b'{"prompt":"a","temperature":Infinity}', None), "hex": (b'{"prompt":"a","n":0x1}', None), "plus": (b'{"prompt":"a","n":+1}', None),
    "leading zero": (b'{"prompt":"a","n":01}', None),
    "5,000 digits": (b'{"prompt":"a","n":' + b"9" * 5000 + b"}", "n"), "bad UTF-8": (b'{"prompt":"\xff"}', None),
    "overlong UTF-8": (b'{"prompt":"\xc0\x80"}', None), "surrogate bytes": (b'{"prompt":"\xed\xa0\x80"}', None),
    "beyond Unicode": (b'{"prompt":"\xf4\x90\x80\x80"}', None), "lone surrogate": (b'{"prompt":"\\ud800"}', None),
    "lone low surrogate": (b'{"prompt":"\\udc00"}', None), "raw newline": (b'{"prompt":"a\nb"}', None), "raw NUL": (b'{"prompt":"a\x00b"}', None),
    "bad escape": (b'{"prompt":"\\x41"}', None), "duplicate": (b'{"prompt":"a","n":1,"n":2}', None),
    "duplicate, escaped": (b'{"prompt":"a","n":1,"\\u006e":2}', None), "duplicate deep": (b'{"prompt":"a","metadata":{"a":1,"a":2}}', None),
    "65 deep": (b'{"prompt":"a","metadata":' + b"[" * 64 + b"]" * 64 + b"}", None),
    "3,000 deep": (b'{"prompt":"a","metadata":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}", None),
    "3,000 deep in tools": (b'{"prompt":"a","tools":[' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"]}", None),
    "3,000 deep in a schema": (b'{"prompt":"a","guided_json":' + b'{"items":' * 3000 + b"{}" + b"}" * 3000 + b"}", None),
    "250,000 deep": (b"[" * 250000, None), "million of one key": (b'{"prompt":"a","' + b"k" * 1000000 + b'":1,"' + b"k" * 1000000 + b'":1}', None),
    "no prompt": (b"{}", "prompt"), "prompt null": (b'{"prompt":null}', "prompt"), "empty prompt": (b'{"prompt":""}', "prompt"),
    "empty list": (b'{"prompt":[]}', "prompt"), "list of empty string": (b'{"prompt":[""]}', "prompt*"), "list of empty list": (b'{"prompt":[[]]}', "prompt*"), "mixed": (b'{"prompt":["a",1]}', "prompt*"),
    "mixed lists": (b'{"prompt":[[1],"a"]}', "prompt*"), "id -1": (b'{"prompt":[-1]}', "prompt*"), "id huge": (b'{"prompt":[2147483648]}', "prompt*"),
    "id V": (b'{"prompt":[1000000]}', "prompt*"), "id 1.5": (b'{"prompt":[1.5]}', "prompt*"), "id text": (b'{"prompt":[["1"]]}', "prompt*"),
    "10,000 prompts": (json.dumps({"prompt": ["a"] * 10000}).encode(), "*"), "n x prompts": (b'{"prompt":' + json.dumps(["a"] * 100).encode() + b',"n":128}', "*"),
    "best_of below n": (b'{"prompt":"a","n":3,"best_of":2}', "best_of"), "stream_options alone": (b'{"prompt":"a","stream_options":{}}', "stream_options"),
    "min above max": (b'{"prompt":"a","max_tokens":2,"min_tokens":3}', "min_tokens"), "min above the default": (b'{"prompt":"a","min_tokens":257}', "min_tokens"),
    "max_tokens beyond the context": (b'{"prompt":"a","max_tokens":2147483647}', "max_tokens"),
    "unknown format": (b'{"prompt":"a","response_format":{"type":"poem"}}', "response_format*"),
    "format without schema": (b'{"prompt":"a","response_format":{"type":"json_schema"}}', "response_format*"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_refused_and_the_connection_survives(server, connection, name):
    body, param = BODIES[name]
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize") if param is None else ("/v1/completions",):
        answer = connection.post(path, content=body)
        error = refused(answer, param if param != "*" else None, sent=body[:2000].decode("latin-1"))
        assert param or any(word in error["message"] for word in ("at byte ", "is empty", "must be a JSON object"))
        assert connection.post("/v1/completions", json=TINY).status_code == 200
    check_good(server)


MESSAGES = {
    "missing": ("{}", "messages"), "empty": ('{"messages":[]}', "messages"), "not a list": ('{"messages":"hi"}', "messages"),
    "null item": ('{"messages":[null]}', "messages[0]*"), "no role": ('{"messages":[{"content":"a"}]}', "messages[0].role"),
    "role": ('{"messages":[{"role":"root","content":"a"}]}', "messages[0].role"), "role 5": ('{"messages":[{"role":5,"content":"a"}]}', "messages[0].role"),
    "no content": ('{"messages":[{"role":"user"}]}', "messages[0].content"), "content 5": ('{"messages":[{"role":"user","content":5}]}', "messages[0].content"),
    "second": ('{"messages":[{"role":"user","content":"a"},{"role":"user","content":{}}]}', "messages[1].content"),
    "part type": ('{"messages":[{"role":"user","content":[{"type":"video"}]}]}', "messages[0].content[0].type"),
    "part without text": ('{"messages":[{"role":"user","content":[{"type":"text"}]}]}', "messages[0].content[0].text"),
    "file URL": ('{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]}', "messages[0].content[0].type"),
    "metadata URL": ('{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://169.254.169.254/"}}]}]}', "messages[0].content[0].type"),
    "tool call": ('{"messages":[{"role":"assistant","tool_calls":[{"function":{}}]}]}', "messages[0].tool_calls[0]*"),
    "tool arguments": ('{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{"}}]}]}', "messages[0].tool_calls[0]*"),
    "tool type 5": ('{"messages":[{"role":"user","content":"a"}],"tools":[{"type":5}]}', "tools[0].type"),
    "tool name": ('{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function","function":{"name":"a\\nb"}}]}', "tools[0].function.name"),
    "tool name NUL": ('{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function","function":{"name":"a\\u0000"}}]}', "tools[0].function.name"),
    "tool parameters": ('{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]}', "tools[0].function.parameters"),
    "10,000 tools": (json.dumps({"messages": CHAT["messages"], "tools": [{"type": "function", "function": {"name": "f"}}] * 10000}), "tools"),
    "absent tool": (json.dumps({"messages": CHAT["messages"], "tools": [{"type": "function", "function": {"name": "f"}}],
                                "tool_choice": {"type": "function", "function": {"name": "g"}}}), "tool_choice*"),
    "kwargs override": ('{"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":{"messages":[]}}', "chat_template_kwargs"),
    "kwargs tokenize": ('{"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":{"tokenize":true}}', "chat_template_kwargs"),
    "template": ('{"messages":[{"role":"user","content":"a"}],"chat_template":"{% for i in range(10**9) %}{% endfor %}"}', "chat_template"),
    "top_logprobs alone": ('{"messages":[{"role":"user","content":"a"}],"top_logprobs":2}', "top_logprobs"),
    "100,000 messages": (json.dumps({"messages": [{"role": "user", "content": "a"}] * 100000}), "messages"),
    "1 MB role": (json.dumps({"messages": [{"role": "r" * 1000000, "content": "a"}]}), "messages[0].role"),
    "control role": ('{"messages":[{"role":"\\u001b[31m\\n","content":"a"}]}', "messages[0].role"),
    "control part": ('{"messages":[{"role":"user","content":[{"type":"\\u001b[31m\\n\\u0000"}]}]}', "messages[0].content[0].type"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_and_tools_are_refused_by_name(server, connection, name):
    body, param = MESSAGES[name]
    refused(connection.post("/v1/chat/completions", content=body), param, sent=body[:2000])
    assert connection.post("/v1/chat/completions", json=CHAT).status_code == 200
    check_good(server)


def test_asking_for_no_alternatives_needs_no_logprobs(server, connection):
    for fields in ({"top_logprobs": 0}, {"top_logprobs": 0, "logprobs": False}, {"top_logprobs": None, "logprobs": None}):
        assert connection.post("/v1/chat/completions", json={**CHAT, **fields}).json()["choices"][0]["logprobs"] is None
    check_good(server)


def test_context_overflow_says_the_length(server, connection):
    limit = connection.get("/v1/models").json()["data"][0]["max_model_len"]
    words = f"maximum context length is {limit} tokens"
    over = connection.post("/v1/completions", json={**TINY, "prompt": [1] * (limit + 1)})
    assert words in refused(over, "prompt")["message"] and over.json()["error"]["code"] == "context_length_exceeded"
    assert words in refused(connection.post("/v1/completions", json={**TINY, "prompt": [1] * limit}), "prompt")["message"]
    assert words in refused(connection.post("/v1/completions", json={**TINY, "max_tokens": limit + 1}), "max_tokens")["message"]
    assert words in refused(connection.post("/v1/chat/completions", json={**CHAT, "messages": [{"role": "user", "content": "a " * 4 * limit}]}))["message"]
    fits = connection.post("/v1/completions", json={**TINY, "prompt": [1] * (limit - 2)}).json()
    assert fits["usage"]["completion_tokens"] == 2
    clamped = connection.post("/v1/completions", json={**TINY, "prompt": [1] * (limit - 2), "max_tokens": limit}).json()
    assert clamped["usage"]["completion_tokens"] == 2 and clamped["choices"][0]["finish_reason"] == "length"
    check_good(server)


def test_unknown_model_is_404_and_its_name_is_escaped(server, connection):
    for name in ("nope", "x" * 100000, "\n\x1b[31m\u0000", "../../etc/passwd", "tiny\u0000", '"}\n{"level":"error"}'):
        for path, body in (("/v1/completions", TINY), ("/v1/chat/completions", CHAT)):
            error = refused(connection.post(path, json={**body, "model": name}), "model", 404, sent=name)
            assert error["code"] == "model_not_found"
    assert all("\x1b" not in line for line in server.output().splitlines())
    check_good(server)


def test_special_token_text_in_content_is_text_or_token_but_never_a_crash(server, connection):
    for text in ("<|im_end|>", "<|endoftext|>", "<s></s><unk>", "<|vision_start|><|image_pad|>", "{{ messages }}{% raw %}", "\u0000\u0001"):
        assert connection.post("/v1/chat/completions", json={**CHAT, "messages": [{"role": "user", "content": text}]}).status_code == 200
    check_good(server)


def test_long_runs_are_tokenised_in_linear_time(server, connection):
    for piece in ("A", " ", "\n", "Z9", "\U0001f468\u200d", "e\u0301", "\u4e2d", "QUJD", "'s", "\u00a0\r\n"):
        text = piece * (1000000 // len(piece.encode()))
        answer = connection.post("/tokenize", json={"prompt": text}, timeout=20)
        assert answer.status_code == 200 and answer.json()["count"] > 0
        assert answer.elapsed.total_seconds() < 10, f"{piece!r}"  # a quadratic one takes hours
    check_good(server)


def test_detokenize_and_tokenize_refuse_bad_ids_and_sizes(server, connection):
    for value in ("-1", "100000000", "1.5", '"1"', "null", "[]", "9223372036854775808", "true"):
        refused(connection.post("/detokenize", content=f'{{"tokens":[{value}]}}'.encode()), "tokens*")
    for value in ("5", "null", "{}", '"a"'):
        refused(connection.post("/detokenize", content=f'{{"tokens":{value}}}'.encode()), "tokens")
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [5]})):
        refused(connection.post(path, json={**body, "model": 5}), "model")
        assert refused(connection.post(path, json={**body, "model": "nope"}), "model", 404)["code"] == "model_not_found"
        assert connection.post(path, json={**body, "model": "tiny"}).status_code == 200
        assert connection.post(path, json={**body, "model": None}).status_code == 200
    for value in ("5", "null", "{}", "[1]"):
        refused(connection.post("/tokenize", content=f'{{"prompt":{value}}}'.encode()), "prompt")
    assert connection.post("/tokenize", content=b'{"prompt":"' + b"a" * (34 << 20) + b'"}').status_code == 413
    check_good(server)
