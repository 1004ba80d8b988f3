"""`atom bench serve`, `sweep` and `compare` against a real server on a small model."""
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from conftest import BINARY, ROOT

sys.path.insert(0, str(ROOT / "tests" / "server"))
from running_server import Server  # noqa: E402

MODEL = str(ROOT / "tests" / "golden" / "models" / "llama-gqa-bf16")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server("--served-model-name", MODEL, model=MODEL, log=str(tmp_path_factory.mktemp("bench") / "log.txt"))
    yield server
    assert server.stop() == 0


@pytest.fixture
def bench(atom, server):
    def run(*arguments, command="serve", **options):
        return atom("bench", command, "--model", MODEL, "--base-url", server.base, *arguments, **options)

    return run


RANDOM = ("--dataset-name", "random", "--random-input-len", "12", "--random-output-len", "6", "--ignore-eos")


def test_the_command_of_the_guide(bench, tmp_path):
    done = bench("--backend=vllm", *RANDOM, "--random-range-ratio", "0.8", "--num-prompts=20", "--max-concurrency=4",
                 "--request-rate=inf", "--save-result", "--percentile-metrics=ttft,tpot,itl,e2el",
                 f"--result-dir={tmp_path}", "--result-filename=r.json", "--metadata", "gpu=none", "--goodput", "ttft:10000 e2el:20000",
                 "--api-key", "secret", env={"SAVE_TO_PYTORCH_BENCHMARK_FORMAT": "1"})
    assert done.returncode == 0, done.stderr
    assert "Speculative Decoding" not in done.stdout
    assert re.search(r"^Successful requests: +20 *$", done.stdout, re.M)
    assert re.search(r"^P99 E2EL \(ms\): +[\d.]+ *$", done.stdout, re.M)
    result = json.loads((tmp_path / "r.json").read_text())
    assert list(result)[:7] == ["date", "backend", "model_id", "tokenizer_id", "best_of", "num_prompts", "gpu"]
    assert (result["request_rate"], result["max_concurrency"], result["completed"]) == ("inf", 4, 20)
    assert result["request_goodput:"] == pytest.approx(result["request_throughput"])
    assert sum(result["output_lens"]) == result["total_output_tokens"]
    assert all(4 <= n <= 6 for n in result["output_lens"])
    for i, itl in enumerate(result["itls"]):
        assert len(itl) <= result["output_lens"][i] - 1  # tokens that are ready together share an event
    assert len(result["start_times"]) == 20 and max(result["start_times"]) < time.monotonic()
    assert max(result["start_times"]) - min(result["start_times"]) < result["duration"]
    assert result["mean_ttft_ms"] == pytest.approx(1e3 * sum(result["ttfts"]) / 20)
    for metric in ("ttft", "tpot", "itl", "e2el"):
        for statistic in ("mean", "median", "std", "p99"):
            assert f"{statistic}_{metric}_ms" in result
    assert result["server"]["version"]
    records = json.loads((tmp_path / "r.pytorch.json").read_text())
    assert len(records) == 12 and {record["model"]["name"] for record in records} == {MODEL}
    mean = next(record["metric"] for record in records if record["metric"]["name"] == "mean_ttft_ms")
    assert mean["benchmark_values"] == [result["mean_ttft_ms"]]
    assert mean["extra_info"]["completed"] == 20 and mean["extra_info"]["mean_e2el_ms"] and "ttfts" not in mean["extra_info"]
    assert "mean_tpot_ms" not in mean["extra_info"] and mean["extra_info"]["input_lens"] == result["input_lens"]
    args = records[0]["benchmark"]["extra_info"]["args"]
    assert (args["num_prompts"], args["request_rate"], args["ignore_eos"], args["tokenizer"]) == (20, "inf", True, None)
    assert not any("secret" in path.read_text() for path in tmp_path.iterdir())


def test_drafts_of_the_server_are_reported(atom, tmp_path):
    server = Server("--served-model-name", MODEL, "--method", "ngram", "--num-speculative-tokens", "3", model=MODEL,
                    log=str(tmp_path / "log.txt"))
    try:
        done = atom("bench", "serve", "--model", MODEL, "--base-url", server.base, "--dataset-name", "random", "--random-input-len", "12",
                    "--random-output-len", "200", "--ignore-eos", "--num-prompts", "4", "--max-concurrency", "1", "--save-result",
                    "--result-dir", str(tmp_path), "--result-filename", "r.json")
        drafted = server.metric("vllm:spec_decode_num_draft_tokens_total")
    finally:
        server.kill()
    assert done.returncode == 0, done.stderr
    assert re.search(r"^-+Speculative Decoding-+\nAcceptance rate \(%\): +[\d.]+ *\nAcceptance length: +[\d.]+ *\nDrafts: ", done.stdout, re.M)
    result = json.loads((tmp_path / "r.json").read_text())
    assert 0 < result["spec_decode_draft_tokens"] < drafted  # those of the test request are not the run's
    accepted = result["spec_decode_accepted_tokens"]
    assert result["spec_decode_acceptance_rate"] == pytest.approx(100 * accepted / result["spec_decode_draft_tokens"])
    assert result["spec_decode_acceptance_length"] == pytest.approx(1 + accepted / result["spec_decode_num_drafts"])
    rates = result["spec_decode_per_position_acceptance_rates"]
    assert 1 <= len(rates) <= 3 and sum(rates) * result["spec_decode_num_drafts"] == pytest.approx(accepted)
    assert not (tmp_path / "r.pytorch.json").exists()


def test_chat_and_arrivals(bench):
    started = time.monotonic()
    done = bench("--backend", "openai-chat", *RANDOM, "--num-prompts", "8", "--request-rate", "20", "--burstiness", "2")
    assert done.returncode == 0, done.stderr
    done = bench("--backend", "openai-chat", *RANDOM, "--served-model-name", "nobody")
    assert done.returncode == 1
    assert "the test request failed: HTTP 404" in done.stderr
    done = bench(*RANDOM, "--num-prompts", "8", "--request-rate", "20", "--burstiness", "2")
    assert done.returncode == 0, done.stderr
    assert "Traffic request rate: 20" in done.stdout
    assert time.monotonic() - started > 0.2


def test_sweep_goes_on_where_it_stopped(bench, atom, tmp_path):
    matrix = ("--lengths", "8/4", "--lengths", "16/4", "--concurrencies", "1,3", "--prompt-multiplier", "2",
              "--result-dir", str(tmp_path), "--prefix", "new")
    done = bench(*matrix, command="sweep")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("4 measured, 0 skipped, 0 partial, 0 failed\n")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"new_tp1_isl{i}_osl4_conc{c}.json" for i in (16, 8) for c in (1, 3)]
    assert json.loads((tmp_path / names[1]).read_text())["num_prompts"] == 6
    (tmp_path / names[0]).unlink()
    again = bench(*matrix, command="sweep")
    assert again.stdout.count("skipped, it is there") == 3
    assert again.stdout.endswith("1 measured, 3 skipped, 0 partial, 0 failed\n")

    page = tmp_path / "page.html"
    compared = atom("bench", "compare", str(tmp_path / "new_"), str(tmp_path), "--html", str(page))
    assert compared.returncode == 0  # nothing in common: said, not hidden
    assert compared.stdout.count("only in") == 8
    compared = atom("bench", "compare", str(tmp_path / "new_"), str(tmp_path / "new"), "--html", str(page))
    assert compared.returncode == 0, compared.stderr
    row = re.search(r"^(tp1_isl8_osl4_conc1) +([\d.]+) +([\d.]+) +100.0%$", compared.stdout, re.M)
    assert row, compared.stdout
    assert "tp1_isl8_osl4_conc1" in page.read_text()


class Stalling(http.server.BaseHTTPRequestHandler):
    """Two tokens, then nothing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_error(404)

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for _ in range(2):
            self.wfile.write(b'data: {"choices": [{"text": "a"}]}\n\n')
        self.wfile.flush()
        if next(self.server.count) >= 3:
            self.server.hold.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def stalling():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.count, server.hold = iter(range(10**6)), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.hold.set()
    server.shutdown()


@pytest.mark.parametrize("how", ["timeout", "interrupt"])
def test_what_is_done_is_kept(stalling, tmp_path, how):
    command = [BINARY, "bench", "serve", "--model", MODEL, "--base-url", stalling, *RANDOM, "--num-prompts", "5", "--max-concurrency",
               "1", "--save-result", "--result-dir", str(tmp_path), "--result-filename", "r.json"]
    if how == "timeout":
        command += ["--timeout", "1.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if how == "interrupt":
        for line in process.stdout:
            if line.startswith("Maximum request concurrency"):
                break
        time.sleep(1)
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == (1 if how == "timeout" else 130)
    assert "PARTIAL RESULT" in out
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["completed"] == 2  # the first answer was the test request's
    assert result["unfinished"] == 3
    assert result["partial"]


def test_a_server_that_dies_is_said(tmp_path):
    server = Server("--served-model-name", MODEL, model=MODEL, log=str(tmp_path / "log.txt"))
    process = subprocess.Popen([BINARY, "bench", "serve", "--model", MODEL, "--base-url", server.base, "--dataset-name", "random",
                                "--random-input-len", "12", "--random-output-len", "400", "--ignore-eos", "--num-prompts", "20000",
                                "--max-concurrency", "4", "--save-result", "--result-dir", str(tmp_path), "--result-filename", "r.json"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while server.metric("vllm:request_success_total", finished_reason="length") < 10:
        time.sleep(0.02)
    server.kill()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and re.search(r"^failed: \d+ x Connection refused$", out, re.M), out
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["completed"] >= 9
    assert re.search(rf"^FAILED requests: +{20000 - result['completed']} *$", out, re.M), out


def test_lines_of_a_dataset_that_are_none(atom, tmp_path):
    good = json.dumps({"conversations": [{"from": "human", "value": "one two three four"}, {"from": "gpt", "value": "five six"}]})
    for name, text, words in [("hf", good + "\n{broken\n", "d.jsonl:2: "), ("sharegpt", "[{", "d.json"), ("sharegpt", "[]", "no usable request")]:
        file = tmp_path / ("d.jsonl" if name == "hf" else "d.json")
        file.write_text(text)
        done = atom("bench", "serve", "--model", MODEL, "--dataset-name", name, "--dataset-path", str(file), "--num-prompts", "1",
                    "--base-url", "http://127.0.0.1:1")
        assert done.returncode in (1, 2) and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("arguments, status, words", [
    (["serve"], 2, "--model: needed"),
    (["serve", "--model", MODEL, "--backend", "nobody"], 2, "--backend"),
    (["serve", "--model", MODEL, "--endpoint", "/v1/chat/completions/x"], 2, "must end with completions"),
    (["serve", "--model", MODEL, "--base-url", "https://localhost"], 2, "TLS"),
    (["serve", "--model", MODEL, "--base-url", "localhost:8000"], 2, "http://"),
    (["serve", "--model", MODEL, "--dataset-name", "sharegpt"], 2, "--dataset-path"),
    (["serve", "--model", MODEL, "--request-rate", "fast"], 2, "--request-rate"),
    (["serve", "--model", MODEL, "--request-rate", "0"], 2, "--request-rate"),
    (["serve", "--model", MODEL, "--percentile-metrics", "ttft,abc"], 2, "abc"),
    (["serve", "--model", MODEL, "--metric-percentiles", "101"], 2, "0 to 100"),
    (["serve", "--model", MODEL, "--goodput", "ttft=5"], 2, "KEY:MILLISECONDS"),
    (["serve", "--model", "/nowhere/model", "--dataset-name", "random"], 1, "/nowhere/model"),
    (["serve", "--model", MODEL, "--dataset-name", "random", "--port", "1"], 1,
     "Connection refused (http://127.0.0.1:1/v1/completions)"),
    (["sweep", "--model", MODEL, "--lengths", "8x8"], 2, "INPUT/OUTPUT"),
    (["compare", "/nowhere/a"], 2, "two result prefixes"),
    (["compare", "/nowhere/a", "/nowhere/b"], 1, "/nowhere"),
    (["play"], 2, "allowed: serve, sweep, throughput, latency, compare"),
])
def test_wrong_input_is_one_line(atom, arguments, status, words):
    done = atom("bench", *arguments, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["serve"], ["sweep"], ["compare"], ["throughput"], ["latency"]])
def test_help(atom, command):
    done = atom("bench", *command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: atom bench")
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_scripts_of_the_original(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "ATOM_BINARY": BINARY, "ATOM_LOG_DIR": str(tmp_path), "RESULT_DIR": str(tmp_path)}

    def script(name, *arguments):
        return subprocess.run([str(ROOT / "scripts" / name), *arguments], env=environment, capture_output=True, text=True,
                              timeout=120, check=False)

    try:
        for _ in range(2):  # the second start stops the first server
            started = script("start_atom_server.sh", MODEL, "1", port, "--host", "127.0.0.1")
            assert started.stdout.endswith("Server is ready!\n"), started.stdout + started.stderr
        assert "Stopping the server" in started.stdout
        run = script("run_benchmark.sh", MODEL, port, "16", "4", "2", "3")
        assert run.returncode == 0, run.stderr
        assert json.loads((tmp_path / "result_isl16_osl4_conc2.json").read_text())["completed"] == 6
        assert script("wait_infer_drain.sh", port).stdout == "Drained\n"
    finally:
        os.kill(int((tmp_path / f"atom_server_{port}.pid").read_text()), signal.SIGTERM)
    died = script("start_atom_server.sh", "/nowhere/model", "1", port)
    assert died.returncode == 1 and died.stdout.endswith("Server process died\n")  # the first one may still be stopping
    assert "/nowhere/model" in died.stderr


OFFLINE = ["--model", MODEL, "--device", "cpu", "--input-len", "12"]


def test_throughput_without_a_server(atom, tmp_path):
    done = atom("bench", "throughput", *OFFLINE, "--output-len", "6", "--num-prompts", "20", "--n", "2",
                "--num-warmups", "3", "--output-json", str(tmp_path / "r.json"), env={"SAVE_TO_PYTORCH_BENCHMARK_FORMAT": "1"})
    assert done.returncode == 0, done.stderr
    rates = re.search(r"^Throughput: ([\d.]+) requests/s, ([\d.]+) total tokens/s, ([\d.]+) output tokens/s$", done.stdout, re.M)
    prompt, output = (int(re.search(rf"^Total num {kind} tokens:  (\d+)$", done.stdout, re.M)[1]) for kind in ("prompt", "output"))
    assert output == 20 * 6 * 2 and prompt >= 20 * 10
    result = json.loads((tmp_path / "r.json").read_text())
    assert list(result) == ["elapsed_time", "num_requests", "total_num_tokens", "requests_per_second", "tokens_per_second"]
    assert result["num_requests"] == 20 and result["total_num_tokens"] == prompt + output
    assert result["requests_per_second"] == pytest.approx(20 / result["elapsed_time"])
    assert float(rates[1]) == pytest.approx(result["requests_per_second"], abs=0.01)
    assert float(rates[2]) / float(rates[3]) == pytest.approx((prompt + output) / output, rel=1e-2)
    records = json.loads((tmp_path / "r.pytorch.json").read_text())
    assert [r["metric"]["name"] for r in records] == ["requests_per_second", "tokens_per_second"]
    assert records[1]["metric"]["benchmark_values"] == [result["tokens_per_second"]]
    assert records[0]["metric"]["extra_info"] == {k: result[k] for k in ("elapsed_time", "num_requests", "total_num_tokens")}
    assert records[0]["benchmark"]["extra_info"]["args"]["n"] == 2


def test_throughput_of_a_file_and_what_does_not_fit(atom, tmp_path):
    talk = [{"conversations": [{"from": "human", "value": "one two three four"}, {"from": "gpt", "value": "five six seven eight"}]}] * 3
    (tmp_path / "s.json").write_text(json.dumps(talk))
    file = ("--model", MODEL, "--device", "cpu", "--dataset-path", str(tmp_path / "s.json"), "--num-prompts", "3")
    done = atom("bench", "throughput", *file, "--output-len", "5")
    assert done.returncode == 0 and "Total num output tokens:  15\n" in done.stdout, done.stderr
    for flags, message in [((*file, "--input-len", "9"), "--input-len: only with --dataset-name random"),
                           ((*OFFLINE, "--output-len", "600"), "do not fit a context of 512"),
                           ((*OFFLINE, "--profile"), "--profile: needs --torch-profiler-dir"),
                           ((*file[:4], "--dataset-name", "sonnet"), "--dataset-path: needed")]:
        done = atom("bench", "throughput", *flags)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    done = atom("bench", "throughput", *OFFLINE, "--output-len", "2", "--num-prompts", "2", "--output-json", "/nowhere/r.json")
    assert done.returncode == 1 and "/nowhere/r.json: cannot be written" in done.stderr and "Throughput: " in done.stdout


def test_latency_of_a_batch(atom, tmp_path):
    done = atom("bench", "latency", *OFFLINE, "--output-len", "6", "--batch-size", "3", "--num-iters", "5", "--num-iters-warmup", "1",
                "--output-json", str(tmp_path / "r.json"), "--profile", "--torch-profiler-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert list(result) == ["avg_latency", "latencies", "percentiles"] and len(result["latencies"]) == 5
    assert result["avg_latency"] == pytest.approx(sum(result["latencies"]) / 5)
    assert list(result["percentiles"]) == ["10", "25", "50", "75", "90", "99"]
    assert result["percentiles"]["50"] == pytest.approx(sorted(result["latencies"])[2])
    assert done.stdout.startswith("Avg latency: ") and done.stdout.count("% percentile latency: ") == 6
    assert len(list((tmp_path / "rank_0").iterdir())) == 1


def test_latency_keeps_what_is_done_at_ctrl_c(tmp_path):
    process = subprocess.Popen([BINARY, "bench", "latency", *OFFLINE, "--output-len", "6", "--num-iters", "1000000",
                                "--num-iters-warmup", "0", "--output-json", str(tmp_path / "r.json"), "--verbose"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "loaded: " not in process.stderr.readline():
        pass
    time.sleep(1)  # hundreds of batches
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.startswith("PARTIAL RESULT: ") and json.loads((tmp_path / "r.json").read_text())["latencies"]
