#!/usr/bin/env python3
"""`atom bench serve` beside a Python client of the same shape (asyncio and aiohttp, as benchmark_serving of vLLM has
it), taking turns on the same mock server: do their numbers agree, and how much can each drive?

    client_agreement.py [--build build] [--model DIR] [--streams 32] [--step-us 10000] [--tokens 100] [--prompts 128] [--rounds 5]

The mock server (build/bin/mock_server) answers a token to every stream each STEP microseconds; 0 is as fast as it goes.
Needs aiohttp. Prints the median over the rounds of each number and native / Python. Results: docs/benchmarks/client.md.
"""
import argparse
import asyncio
import json
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import aiohttp

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMPARED = ("output_throughput", "request_throughput", "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "mean_tpot_ms",
            "median_tpot_ms", "p99_tpot_ms", "mean_itl_ms", "median_itl_ms", "p99_itl_ms", "client_cpu_s", "tokens_per_cpu_s")


def percentile(values, q):
    values = sorted(values)
    at = (len(values) - 1) * q / 100
    low = int(at)
    return values[low] + (values[min(low + 1, len(values) - 1)] - values[low]) * (at - low)


async def one_request(session, url, tokens, semaphore):
    body = {"model": "mock", "prompt": "abcdefghijklmnop", "temperature": 0.0, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    async with semaphore:
        started = last = time.perf_counter()
        ttft, gaps, count = 0.0, [], 0
        async with session.post(url + "/v1/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                line = line.strip()
                if not line.startswith(b"data: ") or line == b"data: [DONE]":
                    continue
                if not json.loads(line[6:])["choices"][0]["text"]:
                    continue
                now = time.perf_counter()
                if count == 0:
                    ttft = now - started
                else:
                    gaps.append(now - last)
                last = now
                count += 1
        return ttft, gaps, last - started


async def python_client(url, streams, tokens, prompts):
    semaphore = asyncio.Semaphore(streams)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None), read_bufsize=1 << 20) as session:
        await one_request(session, url, tokens, semaphore)  # the test request
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        answers = await asyncio.gather(*(one_request(session, url, tokens, semaphore) for _ in range(prompts)))
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
    out = {"output_throughput": prompts * tokens / seconds, "request_throughput": prompts / seconds, "client_cpu_s": cpu_s,
           "tokens_per_cpu_s": prompts * tokens / cpu_s}
    series = {"ttft": [a[0] for a in answers], "tpot": [(a[2] - a[0]) / (tokens - 1) for a in answers], "itl": [g for a in answers for g in a[1]]}
    for name, values in series.items():
        out |= {f"mean_{name}_ms": 1e3 * statistics.fmean(values), f"median_{name}_ms": 1e3 * statistics.median(values),
                f"p99_{name}_ms": 1e3 * percentile(values, 99)}
    return out


def native_client(program, model, url, streams, tokens, prompts):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, "bench", "serve", "--backend", "vllm", "--model", "mock", "--tokenizer", model, "--base-url", url,
                        "--dataset-name", "random", "--random-input-len", "8", "--random-output-len", str(tokens), "--ignore-eos",
                        "--num-prompts", str(prompts), "--max-concurrency", str(streams), "--save-result", "--result-dir", folder,
                        "--result-filename", "r.json", "--percentile-metrics", "ttft,tpot,itl"], check=True, capture_output=True)
        result = json.loads((pathlib.Path(folder) / "r.json").read_text())
    assert result["completed"] == prompts, result["completed"]
    result["tokens_per_cpu_s"] = prompts * tokens / result["client_cpu_s"]
    return result


def start_mock(program, step_us, streams):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([program, str(port), str(step_us), str(max(streams, 1))])
    url = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            urllib.request.urlopen(url + "/health", timeout=1)
            return process, url
        except OSError:
            time.sleep(0.05)
    sys.exit("mock_server did not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--model", default=str(ROOT / "tests" / "golden" / "models" / "llama-gqa-bf16"), help="whose tokenizer makes prompts")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--step-us", type=int, default=10000)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    work = (args.streams, args.tokens, args.prompts)
    server, url = start_mock(args.build + "/bin/mock_server", args.step_us, args.streams)
    rounds = []
    try:
        for _ in range(args.rounds):
            rounds.append((native_client(args.build + "/bin/atom", args.model, url, *work), asyncio.run(python_client(url, *work))))
    finally:
        server.terminate()
        server.wait(30)
    print(f"{args.streams} streams, a token every {args.step_us} us, {args.prompts} answers of {args.tokens} tokens, {args.rounds} rounds")
    print(f"{'':20} {'native':>12} {'Python':>12} {'ratio':>8}")
    for name in COMPARED:
        native, python = (statistics.median(r[side][name] for r in rounds) for side in (0, 1))
        print(f"{name:20} {native:12.3f} {python:12.3f} {native / python:8.3f}")


if __name__ == "__main__":
    main()
