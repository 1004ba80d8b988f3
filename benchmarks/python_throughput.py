#!/usr/bin/env python3
"""Python's `generate` beside `atom bench throughput`: the same short prompts, model and flags, in turns, each in a process
of its own.

    .venv-python/bin/python benchmarks/python_throughput.py MODEL [--prompts 256] [--tokens 16] [--rounds 5]

Wants the package installed; the program is the one beside this Python. For each: seconds of generate(), CPU seconds of the whole
process, its start included. Medians; results: docs/benchmarks/python.md.
"""
import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

PYTHON = """
import json, sys, time
from atom import LLMEngine, SamplingParams
prompts = [talk["conversations"][0]["value"] for talk in json.load(open(sys.argv[2]))]
engine = LLMEngine(sys.argv[1], max_model_len=1024, kv_cache_memory_gb=0.5, enable_prefix_caching=False)
started = time.perf_counter()
outputs = engine.generate(prompts, SamplingParams(temperature=1.0, max_tokens=int(sys.argv[3]), ignore_eos=True))
print(time.perf_counter() - started, sum(o["num_tokens_input"] for o in outputs), sum(o["num_tokens_output"] for o in outputs))
"""


def cpu_of(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return out, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_prompts(file, count):
    prompts = [f"Question {i}: what is the capital of country number {i}?" for i in range(count)]
    file.write_text(json.dumps([{"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": ""}]} for p in prompts]))


def native(program, model, file, count, tokens):
    result = file.with_suffix(".result.json")
    out, cpu = cpu_of([program, "bench", "throughput", model, "--dataset-name", "sharegpt", "--dataset-path", str(file), "--num-prompts",
                       str(count), "--sharegpt-output-len", str(tokens), "--max-model-len", "1024", "--kv-cache-memory-gb", "0.5",
                       "--no-enable-prefix-caching", "--output-json", str(result)])
    asked, answered = (int(line.split()[-1]) for line in out.splitlines() if line.startswith("Total num"))
    return {"seconds": json.loads(result.read_text())["elapsed_time"], "cpu": cpu, "tokens": (asked, answered)}


def python(model, file, tokens):
    out, cpu = cpu_of([sys.executable, "-c", PYTHON, model, str(file), str(tokens)])
    seconds, asked, answered = out.split()[-3:]
    return {"seconds": float(seconds), "cpu": cpu, "tokens": (int(asked), int(answered))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    program = str(pathlib.Path(sys.executable).parent / "atom")
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        file = pathlib.Path(name) / "prompts.json"

        def run(side, count, tokens):
            write_prompts(file, count)
            return native(program, args.model, file, count, tokens) if side == "native" else python(args.model, file, tokens)

        sides = ["native", "Python"]
        for side in sides:
            run(side, 1, 1)  # the model's file is in memory
        for number in range(args.rounds):
            order = sides if number % 2 == 0 else sides[::-1]
            rounds.append({side: run(side, args.prompts, args.tokens) for side in order})
            both = rounds[-1]
            print("  ".join(f"{side}: {both[side]['seconds']:.3f} s, {both[side]['cpu']:.2f} s CPU {both[side]['tokens']}"
                            for side in sides), flush=True)
    for what in ("seconds", "cpu"):
        middle = {side: statistics.median(r[side][what] for r in rounds) for side in sides}
        ratio = statistics.median(r["Python"][what] / r["native"][what] for r in rounds)
        print(f"{what}: native {middle['native']:.3f}, Python {middle['Python']:.3f}, Python / native {middle['Python'] / middle['native']:.3f} "
              f"(median of the rounds' ratios {ratio:.3f})")


if __name__ == "__main__":
    main()
