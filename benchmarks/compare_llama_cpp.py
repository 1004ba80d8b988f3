#!/usr/bin/env python3
"""Compares ATOM with llama.cpp on one GGUF file: prefill, decode, start to first completion, memory.

  compare_llama_cpp.py MODEL.gguf --llama-bin DIR [--threads 1 2] [--rounds 3]

Both programs run in turn, `rounds` times; the best of each counts, so that foreign load hits both alike.
llama.cpp: llama-bench and llama-server of a native Release build. Prints one Markdown table.
"""
import argparse
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PREFILL, DECODE = 512, 128


def output_of(command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout


def atom_speed(model, threads):
    text = output_of([ROOT / "build/bin/step_benchmark", model, "--threads", threads, "--pp", PREFILL,
                      "--tg", DECODE, "--repeat", 2])
    return {name: float(rate) for name, rate in re.findall(r"^(pp|tg)\d+ +([\d.]+) tok/s", text, re.M)}


def llama_speed(bin_dir, model, threads):
    text = output_of([bin_dir / "llama-bench", "-m", model, "-t", threads, "-p", PREFILL, "-n", DECODE,
                      "-r", 2, "-o", "json"])
    rates = {}
    for row in json.loads(text):
        rates["pp" if row["n_prompt"] else "tg"] = max(row["samples_ts"])
    return rates


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(port):
    body = json.dumps({"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 1,
                       "temperature": 0}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body,
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))


def start_up(command, port):
    """CPU seconds and resident MB from exec to the end of the first completion (one token)."""
    began = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                post(port)
                break
            except OSError:
                time.sleep(0.02)
        wall = time.monotonic() - began
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        return {"cpu": cpu, "wall": wall, "rss": int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama-bin", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    print(f"| {pathlib.Path(args.model).name} | ATOM | llama.cpp | ratio |\n|---|---:|---:|---:|")
    for threads in args.threads:
        best = {}
        for _ in range(args.rounds):
            for who, rates in (("atom", atom_speed(args.model, threads)),
                               ("llama", llama_speed(args.llama_bin, args.model, threads))):
                for name, rate in rates.items():
                    best[who, name] = max(best.get((who, name), 0), rate)
        for name, what in (("pp", f"prefill {PREFILL}, tok/s"), ("tg", f"decode {DECODE}, tok/s")):
            ours, theirs = best["atom", name], best["llama", name]
            print(f"| {what}, {threads} thread{'s' if threads > 1 else ''} | {ours:.1f} | {theirs:.1f} "
                  f"| {ours / theirs:.2f} |", flush=True)

    port = free_port()
    atom = [ROOT / "build/bin/atom", "serve", "--model", args.model, "--host", "127.0.0.1",
            "--server-port", port, "--threads", 1]
    llama = [args.llama_bin / "llama-server", "-m", args.model, "--host", "127.0.0.1", "--port", port,
             "-t", "1", "-np", "1", "-c", "4096"]
    ours = min((start_up(atom, port) for _ in range(args.rounds)), key=lambda r: r["cpu"])
    theirs = min((start_up(llama, port) for _ in range(args.rounds)), key=lambda r: r["cpu"])
    for key, what in (("cpu", "start to first completion, CPU s"),
                      ("wall", "start to first completion, wall s"), ("rss", "peak resident MB")):
        print(f"| {what} | {ours[key]:.2f} | {theirs[key]:.2f} | {ours[key] / theirs[key]:.2f} |")


if __name__ == "__main__":
    main()
