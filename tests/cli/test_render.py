"""atom render: one JSON object in, one out, on the real binary."""
import json


def render(atom, *requests):
    result = atom("render", stdin="".join(json.dumps(r) + "\n" for r in requests))
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_template_messages_and_context(atom):
    loop = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
    first, second = render(
        atom,
        {"template": loop, "messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": True},
        {"template": "{{ a + 1 }}", "context": {"a": 41}},
    )
    assert first == {"text": "[user] hi\n[bot]"}
    assert second == {"text": "42"}


def test_errors_have_a_kind_and_the_next_line_works(atom):
    out = render(
        atom,
        {"template": "{{ raise_exception('no') }}", "messages": []},
        {"template": "{% if %}", "messages": []},
        {"template": "{% for i in range(10**9) %}x{% endfor %}", "context": {}},
        {"template": "fine", "context": {}},
    )
    assert [o.get("error", {}).get("kind") for o in out] == ["raise", "syntax", "limit", None]
    assert out[0]["error"]["message"] == "no"
    assert out[3] == {"text": "fine"}


def test_the_demo_models_own_template(atom, demo_model):
    (out,) = render(atom, {"model": demo_model, "messages": [{"role": "user", "content": "hi"}],
                           "add_generation_prompt": True})
    assert "<|im_start|>user\nhi<|im_end|>" in out["text"]
    assert out["text"].endswith("<|im_start|>assistant\n")


def test_lines_that_are_no_request(atom):
    result = atom("render", stdin="not json\n[]\n{}\n")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == 3 and all("error" in answer for answer in answers)
