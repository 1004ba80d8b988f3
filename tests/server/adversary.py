"""What the robustness tests share: a good request that must work after every attack, and the form that every refusal
must have."""
import json
import pathlib
import re

import httpx

GET = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
TINY = {"prompt": "a b", "max_tokens": 2, "temperature": 0, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0, "ignore_eos": True}
# Never ends on its own during a test: long, and held up by a reader that does not read.
LONG = {"prompt": "a b", "max_tokens": 400, "temperature": 0, "ignore_eos": True, "stream": True}

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_good(server):
    """A fresh connection is served, and a generation gives what it always gave."""
    assert httpx.get(server.base + "/health", timeout=20).json() == {"status": "ok"}
    answer = httpx.post(server.base + "/v1/completions", json=TINY, timeout=60)
    assert answer.status_code == 200, answer.text
    text = answer.json()["choices"][0]["text"]
    assert getattr(server, "canary", text) == text
    server.canary = text


def check_error(body, sent=""):
    """An OpenAI error object whose message is one clean line that quotes at most 128 characters of the request."""
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and len(error["message"]) <= 800 and not CONTROL.search(error["message"])
    assert error["param"] is None or (len(error["param"]) <= 200 and not CONTROL.search(error["param"]))
    if len(sent) > 128:
        for at in range(0, len(sent) - 129, 16):
            assert sent[at:at + 129] not in error["message"]
    return error


def refused(answer, param=None, status=400, sent=""):
    """`param`: the field, or its beginning when it ends with '*'."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text[:300]}"
    error = check_error(answer.text, sent)
    if param is not None:
        name = error["param"] or ""
        assert name.startswith(param[:-1]) if param.endswith("*") else name == param, error
        assert param.rstrip("*") in error["message"] or "context length" in error["message"], error
    assert answer.headers["x-request-id"]
    return error


def field_table():
    """(name, endpoints, kind) of every row of the validator's table, read from its source."""
    source = pathlib.Path(__file__).resolve().parents[2] / "atom/entrypoints/openai/request_fields.cpp"
    text = source.read_text()
    table = text[text.index("constexpr FieldSpec kFields[]"):]
    table = table[:table.index("\n};")]
    rows = re.findall(r'\{"(\w+)", (k\w+), K::(k\w+),', table)
    for block in re.findall(r"\{\.name = [^}]*\}", table):
        name = re.search(r'\.name = "(\w+)"', block)[1]
        endpoints = re.search(r"\.endpoints = (k\w+)", block)
        rows.append((name, endpoints[1] if endpoints else "kBothEndpoints", re.search(r"\.kind = K::(k\w+)", block)[1]))
    assert len(rows) == table.count("K::k"), "a row of the table has a form that is not read here"
    return rows
