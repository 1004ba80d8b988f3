#!/usr/bin/env python3
"""Closed loop of streaming clients against a running server: tokens a second, times to the first token and
between tokens as a client sees them. Only the standard library; one thread, one connection a client.

    http_latency.py PORT [--clients N] [--requests N] [--input N] [--output N] [--vocab N]

Prompts are random token ids, greedy, EOS ignored. The time between tokens is the time between the events that
bring them; an event that brings several counts once. Results: docs/benchmarks/gpu.md.
"""

import argparse
import json
import random
import selectors
import socket
import sys
import time


class Client:
    """One connection that asks again when its answer is there."""

    def __init__(self, load):
        self.load = load
        self.socket = socket.create_connection(("127.0.0.1", load.args.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        load.selector.register(self.socket, selectors.EVENT_READ, self)
        self.ask()

    def ask(self):
        args = self.load.args
        prompt = [self.load.random.randrange(5, args.vocab) for _ in range(args.input)]
        body = json.dumps(
            {
                "model": args.model,
                "prompt": prompt,
                "max_tokens": args.output,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.buffer = b""
        self.last = None
        self.asked = time.perf_counter()
        self.socket.sendall(head.encode() + body)

    def read(self):
        data = self.socket.recv(1 << 16)
        now = time.perf_counter()
        if not data:
            sys.exit("the server closed a connection: " + self.buffer.decode(errors="replace")[-300:])
        self.buffer += data
        lines = self.buffer.split(b"\n")
        self.buffer = lines.pop()
        for line in lines:
            if not line.startswith(b"data: "):
                if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                    sys.exit(f"{line.decode()} {lines}")
                continue
            if line.startswith(b"data: [DONE]"):
                return self.finish()
            if b'"usage":{' in line:
                self.load.tokens += json.loads(line[6:])["usage"]["completion_tokens"]
            if b'"choices":[{' in line:
                if self.last is None:
                    self.load.first.append(now - self.asked)
                else:
                    self.load.between.append(now - self.last)
                self.last = now
        return None

    def finish(self):
        self.load.finished += 1
        if self.load.started < self.load.args.requests:
            self.load.started += 1
            self.ask()
        else:
            self.load.selector.unregister(self.socket)
            self.socket.close()


class Load:
    def __init__(self, args):
        self.args = args
        self.random = random.Random(1)
        self.selector = selectors.DefaultSelector()
        self.first, self.between = [], []
        self.tokens = self.finished = 0
        self.started = args.clients

    def run(self):
        begin = time.perf_counter()
        for _ in range(self.args.clients):
            Client(self)
        while self.finished < self.args.requests:
            for key, _ in self.selector.select(timeout=60) or sys.exit("no answer for 60 s"):
                key.data.read()
        return time.perf_counter() - begin


def percentile(values, share):
    values = sorted(values)
    return 1e3 * values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--model", default="m")
    for name, value in (("clients", 64), ("requests", 0), ("input", 1024), ("output", 256), ("vocab", 32000)):
        parser.add_argument("--" + name, type=int, default=value)
    args = parser.parse_args()
    args.requests = args.requests or 2 * args.clients
    load = Load(args)
    seconds = load.run()
    print(
        f"{args.clients} clients, {args.requests} requests: {load.tokens / seconds:.0f} tok/s; ms to the first token "
        f"mean {1e3 * sum(load.first) / len(load.first):.0f}, p99 {percentile(load.first, 0.99):.0f}; between tokens "
        f"p50 {percentile(load.between, 0.5):.1f}, p90 {percentile(load.between, 0.9):.1f}, "
        f"p99 {percentile(load.between, 0.99):.1f}, most {percentile(load.between, 1):.1f}"
    )


if __name__ == "__main__":
    main()
