"""The page at / in a real browser: chat, stop, markup that must stay text, key, settings, phone width, theme."""
import json
import os
import pathlib
import time

import httpx

INPUT = "document.querySelector('#input')"
TURNS = "[...document.querySelectorAll('.turn')]"
IDLE = "document.querySelector('#stop').hidden"


def metric(server, name):
    text = httpx.get(server.url + "/metrics").text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def say(page, text):
    page.js(INPUT + ".focus()")
    page.type(text)
    page.key("Enter")


def shoot(page, name):
    if folder := os.environ.get("ATOM_SCREENSHOTS"):
        page.screenshot(pathlib.Path(folder) / name)


def sse(*deltas, finish="stop", tokens=5):
    events = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    events.append({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}})
    return "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"


def fake(page, *deltas, **more):
    page.answer_with("/v1/chat/completions", 200, "text/event-stream", sse(*deltas, **more))


def test_headers_and_no_outside_resource(server):
    answer = httpx.get(server.url + "/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "src=" not in answer.text.split("<script>")[0] and "@import" not in answer.text
    head = httpx.head(server.url + "/")
    assert head.status_code == 200 and head.headers["content-length"] == str(len(answer.content)) and not head.content


def test_a_chat_streams_and_shows_its_numbers(server, open_page):
    page = open_page(server.url)
    page.wait("document.querySelector('#model').textContent === 'SmolLM2-135M'")
    shoot(page, "welcome.png")
    say(page, "Say hello to the world.")
    page.wait(TURNS + ".length === 2")
    page.wait("document.querySelector('.assistant.streaming > .text')?.textContent.length > 3")
    page.wait(IDLE)
    answer = page.js("document.querySelector('.assistant > .text').innerText")
    facts = page.js("document.querySelector('.assistant .facts').innerText")
    assert len(answer) > 5
    assert "tokens/s" in facts and "first after" in facts
    say(page, "And once more?")  # the history goes along
    page.wait(TURNS + ".length === 4 && " + IDLE)
    page.wait("/^[0-9]/.test(document.querySelector('#m-running').textContent)")
    time.sleep(0.3)
    shoot(page, "chat.png")
    page.reload()
    page.wait(TURNS + ".length === 4")
    assert page.js("document.querySelector('.assistant > .text').innerText") == answer
    page.click("#new")
    page.wait(TURNS + ".length === 0 && !document.querySelector('#welcome').hidden")


def test_stop_aborts_the_request(server, open_page):
    page = open_page(server.url)
    page.js("localStorage.setItem('atom.settings', JSON.stringify({max_tokens: 4000, temperature: 1, min_p: 0.05}))")
    page.goto(server.url + "/?again")
    before = metric(server, 'vllm:request_success_total{model_name="SmolLM2-135M",engine="0",finished_reason="abort"}')
    say(page, "Write a story of ten thousand words about the sea, chapter by chapter.")
    page.wait("document.querySelector('.assistant.streaming > .text')?.textContent.length > 20")
    page.key("Escape")
    page.wait(IDLE)
    assert "stopped" in page.js("document.querySelector('.facts').innerText")
    deadline = time.monotonic() + 10
    name = 'vllm:request_success_total{model_name="SmolLM2-135M",engine="0",finished_reason="abort"}'
    while metric(server, name) != before + 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert metric(server, name) == before + 1
    assert metric(server, "vllm:num_requests_running") == 0
    page.js("localStorage.clear()")


MARKUP = """<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>

# Title <b>x</b>

A **bold** and *soft* and `code <i>` word, [good](https://example.org/a?b=1), [bad](javascript:window.hacked=3),
![picture](https://example.org/track.png), <javascript:alert(1)>, snake_case_name and 2 * 3 * 4.

- one
- two
  - inner `x`
  1. first

| a | b |
|---|--:|
| 1 | <u>2</u> |

> quoted

```html
<script>window.hacked=4</script>
```
"""


def test_model_text_stays_text(server, open_page):
    page = open_page(server.url)
    fake(page, *[{"content": MARKUP[i:i + 7]} for i in range(0, len(MARKUP), 7)])
    say(page, "<img src=x onerror='window.hacked=5'>")
    page.wait(TURNS + ".length === 2 && " + IDLE)
    assert page.js("window.hacked") is None
    assert page.js("document.querySelectorAll('#log img, #log script, #log b:not(.facts b), #log u, #log i').length") == 0
    assert page.js("document.querySelector('.user .text').textContent") == "<img src=x onerror='window.hacked=5'>"
    assert page.js("[...document.querySelectorAll('#log a')].map((a) => a.href + ' ' + a.rel)") == [
        "https://example.org/a?b=1 noopener noreferrer nofollow", "https://example.org/track.png noopener noreferrer nofollow"]
    got = page.js("[...document.querySelectorAll('.assistant > .text > *')].map((n) => n.className || n.tagName)")
    assert got == ["P", "H1", "P", "UL", "table", "BLOCKQUOTE", "code"]
    assert page.js("document.querySelector('.code pre').textContent") == "<script>window.hacked=4</script>"
    assert page.js("document.querySelectorAll('.text ul ul li code, .text td').length") == 3
    assert "snake_case_name and 2 * 3 * 4" in page.js("document.querySelector('.assistant > .text').innerText")


def test_hostile_markup_costs_little(server, open_page):
    page = open_page(server.url)
    hostile = ["[a](" * 5000, "[a](<b \"" * 3000, "`" * 20000, "**" * 10000, "_a_ " * 5000, ">" * 20000, "- " * 5000,
               "\n".join(" " * (2 * i) + "- x" for i in range(200)), "|" * 10000 + "\n|-|", "https://" * 3000]
    fake(page, *[{"content": text + "\n\n"} for text in hostile])
    say(page, "Go")
    page.wait(TURNS + ".length === 2 && " + IDLE, seconds=20)
    started = time.monotonic()
    page.reload()  # builds it all again
    page.wait("document.readyState === 'complete' && " + TURNS + ".length === 2", seconds=20)
    assert time.monotonic() - started < 10
    page.js("sessionStorage.clear()")


def test_thinking_is_folded_away(server, open_page):
    page = open_page(server.url)
    for deltas in ([{"reasoning_content": "Let me "}, {"reasoning_content": "see."}, {"content": "Four."}],
                   [{"content": "<think>Let me "}, {"content": "see.</think>\n\nFour."}]):
        page.click("#new")
        fake(page, *deltas)
        say(page, "2 + 2?")
        page.wait(TURNS + ".length === 2 && " + IDLE)
        assert page.js("document.querySelector('.assistant > .text').innerText") == "Four."
        assert page.js("document.querySelector('details.thinking').open") is False
        assert page.js("document.querySelector('details.thinking .text').textContent") == "Let me see."


def test_errors_are_said_and_can_be_tried_again(server, open_page):
    page = open_page(server.url)
    page.answer_with("/v1/chat/completions", 503, "application/json", json.dumps({"error": {"message": "too <b>busy</b>"}}))
    say(page, "Hello?")
    page.wait("document.querySelector('.failure')?.innerText.includes('too <b>busy</b>')")
    page.expected = "status of 503"
    fake(page, {"content": "Here."}, finish="length")
    page.click(".failure button")
    page.wait("document.querySelector('.assistant > .text').innerText === 'Here.' && " + IDLE)
    assert page.js("document.querySelectorAll('.failure').length") == 0
    assert "cut at max tokens" in page.js("document.querySelector('.facts').innerText")


def test_a_key_is_asked_for_and_kept_in_the_tab(start_server, open_page):
    server = start_server("--api-key", "sesame")
    page = open_page(server.url)
    page.expected = "status of 401"
    for key in ("wrong", "sesame"):
        page.wait("document.querySelector('#settings').open && document.activeElement.id === 's-key'")
        page.js("document.activeElement.value = ''")
        page.type(key)
        page.key("Enter")
    page.wait("document.querySelector('#model').textContent === 'SmolLM2-135M'")
    say(page, "Hello?")
    page.wait("document.querySelector('.assistant > .text')?.textContent.length > 3 && " + IDLE)
    assert page.js("Object.values(localStorage).join().includes('sesame')") is False
    assert any("401" in p for p in page.problems)
    page.close()  # it asks for metrics: not a server that has gone
    assert server.stop() == 0


def test_settings_reach_the_request(server, open_page):
    page = open_page(server.url)
    page.click("#open-settings")
    page.wait("document.querySelector('#settings').open")  # its fields are filled as it opens
    for name, value in {"temperature": "0.3", "top_p": "0.9", "max_tokens": "7", "seed": "5"}.items():
        page.js(f"document.querySelector('#s-{name}').value = '{value}'")
    page.js("document.querySelector('#s-system').value = 'Be brief.'")
    time.sleep(0.3)  # it slides in
    shoot(page, "settings.png")
    page.click("#settings .filled")
    page.wait("!document.querySelector('#settings').open && Object.values(localStorage).join().includes('Be brief.')")
    page.js("window.sent = []; const f = window.fetch; window.fetch = (u, o) => { if (o?.body) sent.push(o.body); return f(u, o); };")
    say(page, "Hi")
    page.wait(TURNS + ".length === 2 && " + IDLE)
    body = json.loads(page.js("sent[0]"))
    assert {k: body[k] for k in ("temperature", "top_p", "max_tokens", "seed")} == {
        "temperature": 0.3, "top_p": 0.9, "max_tokens": 7, "seed": 5}
    assert [m["role"] for m in body["messages"]] == ["system", "user"] and "top_k" not in body
    assert "7 tokens" in page.js("document.querySelector('.facts').innerText")
    page.js("localStorage.clear()")


def test_phone_dark_and_long_text(server, open_page):
    page = open_page(server.url, width=375, height=720, dark=True, mobile=True)
    assert page.js("document.documentElement.dataset.theme") == "dark"
    fake(page, {"content": "A long `" + "x" * 300 + "` word.\n\n```\n" + "y" * 300 + "\n```\n\n|" + "z|" * 40 + "\n|" + "-|" * 40 + "\n"})
    say(page, "w" * 200)
    page.wait(TURNS + ".length === 2 && " + IDLE)
    assert page.js("document.documentElement.scrollWidth") == 375
    assert page.js("document.querySelector('#scroll').scrollWidth <= document.querySelector('#scroll').clientWidth")
    shoot(page, "phone-long.png")
    page.click("#theme")
    assert page.js("document.documentElement.dataset.theme") == "light"
    page.js("localStorage.clear()")


def test_the_page_can_be_off(start_server):
    server = start_server("--no-ui")
    answer = httpx.get(server.url + "/")
    assert answer.status_code == 404 and answer.json()["error"]["type"] == "not_found_error"
    assert server.stop() == 0
