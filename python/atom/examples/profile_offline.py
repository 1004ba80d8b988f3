"""One batch under the profiler, without a server.

    python -m atom.examples.profile_offline --model Qwen/Qwen3-0.6B --input-length 128 --output-length 32 --bs 4

The trace opens in Perfetto, TensorBoard and chrome://tracing; `atom trace summary DIR` reads it too.
"""
from __future__ import annotations

import argparse
import random
import time

from atom import EngineArgs, LLMEngine, SamplingParams

TEXT = ("The history of computing is a history of abstraction: from wires to instructions, from instructions to "
        "languages, from languages to systems that run other systems. ")


def make_prompts(llm: LLMEngine, length: int, count: int, random_input: bool) -> list[list[int]]:
    """`count` prompts of `length` tokens each."""
    if random_input:
        source = random.Random(llm.args.seed)
        return [[source.randrange(llm.tokenizer.vocab_size) for _ in range(length)] for _ in range(count)]
    ids = llm.tokenizer.encode(TEXT)
    ids = (ids * (length // len(ids) + 1))[:length]
    return [list(ids) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(usage="%(prog)s [--model MODEL] [FLAGS]", description="Runs one batch under the profiler.")
    EngineArgs.add_cli_args(parser)
    parser.add_argument("--input-length", "--input_length", type=int, default=128, help="tokens of a prompt [128]")
    parser.add_argument("--output-length", "--output_length", type=int, default=32, help="tokens of an answer [32]")
    parser.add_argument("--bs", type=int, default=1, help="prompts at once [1]")
    parser.add_argument("--random-input", "--random_input", action="store_true", help="random tokens, no text")
    args = parser.parse_args()
    if min(args.input_length, args.output_length, args.bs) < 1:
        parser.error("--input-length, --output-length and --bs must be at least 1")

    args.torch_profiler_dir = args.torch_profiler_dir or "./profiler_traces"
    llm = EngineArgs.from_cli_args(args).create_engine()
    prompts = make_prompts(llm, args.input_length, args.bs, args.random_input)
    params = SamplingParams(temperature=0.0, max_tokens=args.output_length, ignore_eos=True)
    llm.generate([prompts[0]], SamplingParams(max_tokens=1))
    llm.start_profile()
    begin = time.monotonic()
    outputs = llm.generate(prompts, params)
    seconds = time.monotonic() - begin
    traces = llm.stop_profile()
    tokens = sum(output["num_tokens_output"] for output in outputs)
    print(f"{args.bs} x {args.input_length} tokens in, {tokens} out: {seconds:.3f} s, {tokens / seconds:.1f} tokens/s, "
          f"first token {max(o['ttft'] for o in outputs):.3f} s, then {outputs[0]['tpot'] * 1e3:.2f} ms each")
    for trace in traces:
        print(f"trace: {trace}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"profile_offline: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
