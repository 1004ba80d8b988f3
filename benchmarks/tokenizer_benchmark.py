#!/usr/bin/env python3
"""Encoding speed of ATOM's tokenizer against the `tokenizers` package: same files, same documents, one
thread, CPU time, best of several rounds on each side, one after the other in the same run.

    ninja -C build tokenize_tool
    python3 benchmarks/tokenizer_benchmark.py --tokenizers DIR --text en=FILE --text zh=FILE [--seconds 3]

DIR holds one folder per tokenizer. Prints a Markdown table.
"""
import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import argparse
import json
import pathlib
import subprocess
import time

import tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[1]


def documents(data):
    """Pieces of about 2000 bytes, cut at line ends (as tokenize_tool cuts them)."""
    begin = 0
    while begin < len(data):
        end = data.find(b"\n", min(begin + 2000, len(data)))
        end = len(data) if end < 0 else end + 1
        yield data[begin:end].decode()
        begin = end


def reference_speed(tokenizer, data, seconds):
    docs = list(documents(data))
    best, tokens, start = 1e9, 0, time.process_time()
    while True:
        begin = time.process_time()
        encodings = tokenizer.encode_batch_fast(docs, add_special_tokens=False)
        best = min(best, time.process_time() - begin)
        if time.process_time() - start >= seconds:
            tokens = sum(len(e.ids) for e in encodings)
            return len(data) / best, tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=pathlib.Path, required=True)
    parser.add_argument("--text", action="append", required=True, help="NAME=FILE, may be given again")
    parser.add_argument("--tool", type=pathlib.Path, default=ROOT / "build" / "tests" / "tokenize_tool")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--only", help="one tokenizer")
    args = parser.parse_args()
    print(f"tokenizers {tokenizers.__version__}, one thread, CPU time, MB/s (10^6 bytes of UTF-8)\n")
    print("| tokenizer | text | ATOM | tokenizers | ratio | load, CPU s |\n|---|---|---:|---:|---:|---:|")
    for folder in sorted(args.tokenizers.iterdir()):
        if args.only and folder.name != args.only:
            continue
        reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        load = float(subprocess.check_output([args.tool, folder, "load"], text=True))
        for item in args.text:
            name, _, path = item.partition("=")
            ours = json.loads(subprocess.check_output(
                [args.tool, folder, "bench", path, str(args.seconds)], text=True))
            speed, tokens = reference_speed(reference, pathlib.Path(path).read_bytes(), args.seconds)
            assert tokens == ours["tokens"], (folder, name, tokens, ours)
            atom = ours["bytes_per_second"]
            print(f"| {folder.name} | {name} | {atom / 1e6:.1f} | {speed / 1e6:.1f} | {atom / speed:.1f} | {load:.2f} |",
                  flush=True)


if __name__ == "__main__":
    main()
