"""Speculative decoding through the server: the same answers, and statistics that add up."""
import re
import subprocess

import httpx

from conftest import BINARY, MODEL, ROOT

PROMPT = "one two three one two three one two"
BODY = {"prompt": PROMPT, "max_tokens": 200, "temperature": 0, "ignore_eos": True}


def test_drafts_change_nothing_and_are_counted(server, start_server):
    assert httpx.get(server.base + "/debug/mtp_stats").json()["enabled"] is False
    assert "spec_decode" not in httpx.get(server.base + "/metrics").text
    drafting = start_server("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}')
    for extra in ({}, {"temperature": 0.8, "seed": 7, "frequency_penalty": 0.3}, {"logprobs": 2, "n": 3}):
        answers = [httpx.post(s.base + "/v1/completions", json={**BODY, **extra}, timeout=60).json() for s in (server, drafting)]
        assert [c["text"] for c in answers[0]["choices"]] == [c["text"] for c in answers[1]["choices"]]
        assert answers[0]["usage"]["completion_tokens"] == answers[1]["usage"]["completion_tokens"]
    stats = httpx.get(drafting.base + "/debug/mtp_stats").json()
    assert stats["enabled"] is True and stats["total_draft_tokens"] > stats["total_accepted_tokens"] > 0
    assert stats["acceptance_rate"] == stats["total_accepted_tokens"] / stats["total_draft_tokens"]
    accepted = {int(k): v for k, v in stats["distribution"].items()}
    assert sum(k * v for k, v in accepted.items()) == stats["total_accepted_tokens"]
    forwards = sum(accepted.values())
    assert abs(stats["average_tokens_per_forward"] - 1 - stats["total_accepted_tokens"] / forwards) < 1e-9
    assert abs(sum(stats["distribution_percent"].values()) - 100) < 1e-6
    assert drafting.metric("vllm:spec_decode_num_draft_tokens_total") == stats["total_draft_tokens"]
    assert drafting.metric("vllm:spec_decode_num_accepted_tokens_total") == stats["total_accepted_tokens"]
    per_position = [drafting.metric("vllm:spec_decode_num_accepted_tokens_per_pos_total", position=str(i)) for i in range(3)]
    assert sum(per_position) == stats["total_accepted_tokens"] and per_position == sorted(per_position, reverse=True)
    table = (ROOT / "docs" / "operations.md").read_text()
    text = httpx.get(drafting.base + "/metrics").text
    assert set(re.findall(r"vllm:spec_decode_\w+", text)) == set(re.findall(r"vllm:spec_decode_\w+", table))
    board = (ROOT / "docs" / "grafana" / "atom.json").read_text()
    assert set() < set(re.findall(r"vllm:spec_decode_\w+", board)) <= set(re.findall(r"vllm:spec_decode_\w+", table))
    assert 0 < drafting.metric("vllm:spec_decode_num_drafts_total") == stats["total_drafts"] <= forwards


def test_a_model_without_a_draft_layer_is_refused():
    result = subprocess.run([BINARY, "serve", "--model", MODEL, "--method", "mtp", "--server-port", "0"],
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and "this checkpoint has no layer that drafts tokens" in result.stderr
