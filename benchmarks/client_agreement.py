#!/usr/bin/env python3
"""`atom bench serve` beside a Python client of the same shape (asyncio and aiohttp, as benchmark_serving of vLLM has
it), taking turns on the same mock server: do their numbers agree, and how much can each drive?

    client_agreement.py [--build build] [--model DIR] [--streams 32] [--step-us 10000] [--tokens 100] [--prompts 128] [--rounds 5]
                        [--server mock|stamping] [--no-python]

The server (build/bin/mock_server: the real one around a model that costs nothing) answers a token to every stream each STEP
microseconds; 0 is as fast as it goes. `--server stamping` takes build/bin/stamping_server, which costs a fifth and writes into
each token when it was handed to its socket: then it is measured too how much later each client noticed, and a bare reader,
which only waits and reads, is run beside them. Prints the median over the rounds of each number and native / Python; the
server's CPU time per token says who was the limit. Needs aiohttp, unless --no-python. Results: docs/benchmarks/client.md.
"""
import argparse
import asyncio
import itertools
import json
import os
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

try:
    import aiohttp
except ImportError:
    aiohttp = None  # enough for --no-python

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMPARED = ("output_throughput", "request_throughput", "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "mean_tpot_ms",
            "median_tpot_ms", "p99_tpot_ms", "mean_itl_ms", "median_itl_ms", "p99_itl_ms", "client_cpu_s", "tokens_per_cpu_s",
            "server_tokens_per_cpu_s", "cores_busy", "median_delay_ms", "p90_delay_ms", "p99_delay_ms", "max_delay_ms")


def percentile(values, q):
    values = sorted(values)
    at = (len(values) - 1) * q / 100
    low = int(at)
    return values[low] + (values[min(low + 1, len(values) - 1)] - values[low]) * (at - low)


def delays(values):
    """Of (seconds of arrival by the client's clock, nanoseconds written by the server), in milliseconds."""
    if not values:
        return {}
    late = sorted(1e3 * arrived - 1e-6 * stamp for arrived, stamp in values)
    return {f"{name}_delay_ms": percentile(late, q) for name, q in (("median", 50), ("p90", 90), ("p99", 99), ("max", 100))}


def stamp_of(text):
    return int(text) if len(text.strip()) == 20 and text.strip().isdigit() else None


async def one_request(session, url, tokens, semaphore):
    body = {"model": "mock", "prompt": "abcdefghijklmnop", "temperature": 0.0, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    async with semaphore:
        started = last = time.perf_counter()
        ttft, gaps, count, stamps = 0.0, [], 0, []
        async with session.post(url + "/v1/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                line = line.strip()
                if not line.startswith(b"data: ") or line == b"data: [DONE]":
                    continue
                choices = json.loads(line[6:])["choices"]
                if not choices or not choices[0]["text"]:
                    continue
                now = time.perf_counter()
                stamps.append((now, choices[0]["text"]))
                if count == 0:
                    ttft = now - started
                else:
                    gaps.append(now - last)
                last = now
                count += 1
        return ttft, gaps, last - started, stamps


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
    out |= delays([(now, stamp_of(text)) for a in answers for now, text in a[3] if stamp_of(text)])
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
    stamped = []
    for start, ttft, itl, text in zip(result["start_times"], result["ttfts"], result["itls"], result["generated_texts"]):
        arrivals = itertools.accumulate([start + ttft, *itl])
        stamped += [(arrived, stamp_of(stamp)) for arrived, stamp in zip(arrivals, text.split()) if stamp_of(stamp)]
    return result | delays(stamped)


def bare_reader(program, port, streams, tokens, prompts):
    answer = json.loads(subprocess.run([program, "--read", str(port), str(streams), str(tokens)], check=True, capture_output=True).stdout)
    return {f"{name}_delay_ms": answer[name] for name in ("median", "p90", "p99", "max")} | {
        "client_cpu_s": answer["cpu_s"], "tokens_per_cpu_s": answer["events"] / answer["cpu_s"]}


def measured(server, tokens, client, *arguments):
    """What a client says, and what the server and the whole machine used meanwhile."""
    def server_s():
        fields = pathlib.Path(f"/proc/{server.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def busy_s():
        fields = [int(n) for n in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")

    before, busy, started = server_s(), busy_s(), time.perf_counter()
    out = client(*arguments)
    seconds = time.perf_counter() - started
    return out | {"server_tokens_per_cpu_s": tokens / max(server_s() - before, 0.01), "cores_busy": (busy_s() - busy) / seconds}


def start_server(program, step_us, streams):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([program, str(port), str(step_us), *([] if "stamping" in program else [str(max(streams, 1))])])
    url = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            urllib.request.urlopen(url + "/health", timeout=1)
            return process, url, port
        except urllib.error.HTTPError:
            return process, url, port
        except OSError:
            time.sleep(0.05)
    sys.exit(program + " did not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--model", default=str(ROOT / "tests" / "golden" / "models" / "llama-gqa-bf16"), help="whose tokenizer makes prompts")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--step-us", type=int, default=10000)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", choices=("mock", "stamping"), default="mock")
    parser.add_argument("--no-python", action="store_true", help="the Python client is left out")
    args = parser.parse_args()
    if not args.no_python and aiohttp is None:
        sys.exit("aiohttp is not installed; --no-python does without")
    work = (args.streams, args.tokens, args.prompts)
    total = args.prompts * args.tokens
    program = f"{args.build}/bin/{args.server}_server"
    server, url, port = start_server(program, args.step_us, args.streams)
    clients = {"native": lambda: native_client(args.build + "/bin/atom", args.model, url, *work)}
    if not args.no_python:
        clients["Python"] = lambda: asyncio.run(python_client(url, *work))
    if args.server == "stamping":
        clients["bare reader"] = lambda: bare_reader(program, port, *work)
    rounds = []
    try:
        for _ in range(args.rounds):
            rounds.append({name: measured(server, total, client) for name, client in clients.items()})
    finally:
        server.terminate()
        server.wait(30)
    print(f"{args.server} server, {args.streams} streams, a token every {args.step_us} us, {args.prompts} answers of {args.tokens} tokens, "
          f"{args.rounds} rounds")
    print(f"{'':24}" + "".join(f" {name:>12}" for name in clients) + ("" if args.no_python else "   native/Python"))
    for name in COMPARED:
        row = [statistics.median(r[client][name] for r in rounds) if name in rounds[0][client] else None for client in clients]
        if all(value is None for value in row):
            continue
        ratio = "" if args.no_python or None in row[:2] else f" {row[0] / row[1]:15.3f}"
        print(f"{name:24}" + "".join(f" {value:12.3f}" if value is not None else f" {'':12}" for value in row) + ratio)


if __name__ == "__main__":
    main()
