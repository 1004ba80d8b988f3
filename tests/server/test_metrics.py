"""/metrics as Prometheus sees it: syntax, vLLM's names, and numbers that add up under load and after aborts."""
import concurrent.futures
import json
import math
import pathlib
import re
import time

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

from raw_http import post

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = {"prompt": "a b", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
ENDLESS = {"prompt": "a b", "max_tokens": 400, "temperature": 0, "ignore_eos": True, "stream": True}
TTFT = [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560]

VLLM = {
    "vllm:num_requests_running": "gauge", "vllm:num_requests_waiting": "gauge", "vllm:kv_cache_usage_perc": "gauge",
    "vllm:cache_config_info": "gauge", "vllm:prompt_tokens": "counter", "vllm:generation_tokens": "counter",
    "vllm:prompt_tokens_cached": "counter", "vllm:request_success": "counter", "vllm:num_preemptions": "counter",
    "vllm:prefix_cache_queries": "counter", "vllm:prefix_cache_hits": "counter",
    "vllm:time_to_first_token_seconds": "histogram", "vllm:inter_token_latency_seconds": "histogram",
    "vllm:time_per_output_token_seconds": "histogram", "vllm:request_time_per_output_token_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram", "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_prefill_time_seconds": "histogram", "vllm:request_decode_time_seconds": "histogram",
    "vllm:request_inference_time_seconds": "histogram", "vllm:request_prompt_tokens": "histogram",
    "vllm:request_prefill_kv_computed_tokens": "histogram", "vllm:request_generation_tokens": "histogram",
    "vllm:request_max_num_generation_tokens": "histogram", "vllm:request_params_n": "histogram",
    "vllm:request_params_max_tokens": "histogram", "vllm:iteration_tokens_total": "histogram",
    "http_requests": "counter", "http_request_duration_seconds": "histogram",
    "process_resident_memory_bytes": "gauge", "process_start_time_seconds": "gauge",
}


def scrape(server):
    """name -> family, after checking what promtool would refuse."""
    text = httpx.get(server.base + "/metrics").text
    assert text.endswith("\n")
    heads = re.findall(r"^# (HELP|TYPE) (\S+)", text, re.M)
    assert len(heads) == len(set(heads)), "a family has two HELP or TYPE lines"
    samples = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) == len(set(samples)), "a series appears twice"
    families = {f.name: f for f in text_string_to_metric_families(text)}
    for family in families.values():
        assert family.documentation and family.type != "unknown", family.name
        if family.type == "histogram":
            check_histogram(family)
    return families


def check_histogram(family):
    series = {}
    for sample in family.samples:
        labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
        series.setdefault(labels, []).append(sample)
    for samples in series.values():
        buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
        count, = (s.value for s in samples if s.name.endswith("_count"))
        total, = (s.value for s in samples if s.name.endswith("_sum"))
        assert buckets == sorted(buckets) and buckets[-1][0] == math.inf
        values = [value for _, value in buckets]
        assert values == sorted(values) and values[-1] == count, family.name
        assert total >= 0 and (count > 0 or total == 0), family.name


def value(families, name, suffix="", **labels):
    base = families[name.removesuffix("_total")] if name.removesuffix("_total") in families else families[name]
    return sum(s.value for s in base.samples if s.name == name + suffix
               and all(s.labels.get(k) == v for k, v in labels.items()))


def finished(families):
    return {r: value(families, "vllm:request_success_total", finished_reason=r)
            for r in ("stop", "length", "abort", "error")}


def idle(server):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        families = scrape(server)
        if value(families, "atom:num_sequences_in_flight") == 0 and value(families, "vllm:num_requests_running") == 0:
            return families
        time.sleep(0.02)
    raise AssertionError("the server did not become idle")


def test_names_types_labels_and_buckets_are_those_of_vllm(server):
    httpx.post(server.base + "/v1/completions", json=TINY)
    families = idle(server)
    for name, kind in VLLM.items():
        assert name in families and families[name].type == kind, name
    for name, family in families.items():
        if name.startswith("vllm:") and name != "vllm:cache_config_info":
            for sample in family.samples:
                assert sample.labels["model_name"] == "tiny" and sample.labels["engine"] == "0"
    bounds = [float(s.labels["le"]) for s in families["vllm:time_to_first_token_seconds"].samples if "le" in s.labels]
    assert bounds == [*TTFT, math.inf]
    lengths = [s.labels["le"] for s in families["vllm:request_prompt_tokens"].samples if "le" in s.labels]
    assert lengths[:5] == ["1.0", "2.0", "5.0", "10.0", "20.0"]
    info, = families["vllm:cache_config_info"].samples
    assert info.value == 1 and int(info.labels["block_size"]) == 16 and int(info.labels["num_gpu_blocks"]) > 0


def test_numbers_add_up_under_load_and_after_aborts(server):
    before = idle(server)
    client = openai.OpenAI(base_url=server.base + "/v1", api_key="none", max_retries=0)

    def complete(i):
        answer = client.completions.create(model="tiny", prompt=f"a b {i}", max_tokens=8, n=2, temperature=0,
                                           extra_body={"ignore_eos": True})
        return answer.usage

    def leave(_):
        with server.raw().connect() as connection:
            connection.send(post("/v1/completions", ENDLESS))
            connection._until(b"data: ")

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        usages = [pool.submit(complete, i) for i in range(40)]
        left = [pool.submit(leave, i) for i in range(10)]
        scrapes = [pool.submit(scrape, server) for _ in range(20)]  # consistent while everything moves
        for future in [*left, *scrapes]:
            future.result()
        usages = [future.result() for future in usages]
    after = idle(server)
    ended = {reason: count - finished(before)[reason] for reason, count in finished(after).items()}
    late = 10 - ended["abort"]  # 400 tokens can be made before the server hears that the client left
    assert ended == {"stop": 0, "length": 80 + late, "abort": 10 - late, "error": 0}

    def grew(name, suffix=""):
        return value(after, name, suffix) - value(before, name, suffix)

    assert grew("vllm:request_generation_tokens", "_sum") == sum(u.completion_tokens for u in usages) + 400 * late
    left_prompt = httpx.post(server.base + "/tokenize", json={"prompt": ENDLESS["prompt"]}).json()["count"]
    assert grew("vllm:request_prompt_tokens", "_sum") == 2 * sum(u.prompt_tokens for u in usages) + left_prompt * late
    assert grew("vllm:request_params_max_tokens", "_sum") == 80 * 8 + 400 * late
    # The aborted ones have a first token, but no latency.
    assert grew("vllm:time_to_first_token_seconds", "_count") == 90
    for name in ("e2e_request_latency", "request_queue_time", "request_prefill_time", "request_decode_time",
                 "request_inference_time", "request_time_per_output_token"):
        assert grew(f"vllm:{name}_seconds", "_count") == 80 + late, name
    assert grew("vllm:inter_token_latency_seconds", "_count") >= 80 * 7
    phases = sum(grew(f"vllm:request_{p}_time_seconds", "_sum") for p in ("queue", "prefill", "decode"))
    assert math.isclose(phases, grew("vllm:e2e_request_latency_seconds", "_sum"), rel_tol=0.2, abs_tol=0.05)
    assert grew("vllm:generation_tokens_total") >= 640
    assert grew("http_request_duration_seconds", "_count") >= 70
    assert value(after, "vllm:kv_cache_usage_perc") == 0
    assert value(after, "atom:kv_cache_free_blocks") == value(after, "atom:kv_cache_blocks")


def test_rejections_are_counted_by_reason(server):
    before = scrape(server)
    httpx.post(server.base + "/v1/completions", json={"prompt": "a", "temperature": 9})
    httpx.post(server.base + "/v1/completions", json={"prompt": "a", "model": "other"})
    httpx.post(server.base + "/v1/completions", json={"prompt": [1] * 100000})
    server.raw().exchange(b"GET / HTTP/9.9\r\n\r\n")
    after = scrape(server)
    for reason in ("invalid_request", "unknown_model", "context_length"):
        assert (value(after, "atom:requests_rejected_total", reason=reason)
                == value(before, "atom:requests_rejected_total", reason=reason) + 1), reason
    assert value(after, "atom:http_refused_total") == value(before, "atom:http_refused_total") + 1


def test_labels_come_from_closed_sets(server):
    for i in range(30):
        httpx.get(f"{server.base}/unknown/{i}")
        httpx.request(f"METHOD{i}", server.base + "/health")
    families = scrape(server)
    handlers = {s.labels["handler"] for s in families["http_requests"].samples}
    methods = {s.labels["method"] for s in families["http_requests"].samples}
    assert "none" in handlers and not any("unknown" in h for h in handlers)
    assert methods <= {"GET", "HEAD", "POST", "OPTIONS", "other"}


def test_label_values_are_escaped(start_server):
    name = 'a"b\\c\nd{}'
    server = start_server("--served-model-name", name)
    families = scrape(server)
    assert families["vllm:num_requests_running"].samples[0].labels["model_name"] == name
    assert server.stop() == 0


def test_dashboard_and_table_name_existing_metrics(server):
    httpx.post(server.base + "/v1/completions", json=TINY)
    names = {s.name for f in idle(server).values() for s in f.samples}
    boards = list((ROOT / "docs" / "grafana").glob("*.json"))
    assert boards
    for board in boards:
        queries = re.findall(r'"expr":\s*"((?:[^"\\]|\\.)*)"', board.read_text())
        assert json.loads(board.read_text())["panels"] and len(queries) > 10
        for query in queries:
            used = re.findall(r"\b(?:(?:vllm|atom):\w+|(?:http|process)_\w+)", query)
            assert used, query
            for name in used:
                # Those of drafts are there with --method: test_speculative.py.
                assert name in names or name.startswith("vllm:spec_decode_"), (board.name, name)
    table = (ROOT / "docs" / "operations.md").read_text()
    documented = set(re.findall(r"`((?:vllm|atom):\w+|(?:http|process)_\w+)`", table))
    families = {re.sub(r"_(bucket|sum|count)$", "", n) for n in names}
    # Every family is in the table, and the table names nothing else.
    assert {n for n in families if ":" in n} <= documented
    drafts = {n for n in documented if n.startswith("vllm:spec_decode_")}  # there with --method: test_speculative.py
    assert documented - drafts <= families | names
