"""Four chats, answered together: does the model load, and does it make sense?

    python -m atom.examples.simple_inference --model Qwen/Qwen3-0.6B --temperature 0.6
"""
from __future__ import annotations

import argparse

from atom import EngineArgs, SamplingParams

QUESTIONS = [
    "Introduce yourself in two sentences.",
    "List all prime numbers below 100.",
    "1+2+3=?",
    "如何在一个月内增肌10公斤？",
]


def main() -> None:
    parser = argparse.ArgumentParser(usage="%(prog)s [--model MODEL] [FLAGS]", description="Answers four built-in chats.")
    EngineArgs.add_cli_args(parser)
    parser.add_argument("--temperature", type=float, default=0.6, help="0: always the likeliest token [0.6]")
    parser.add_argument("--max-tokens", "--max_tokens", type=int, default=256, help="longest answer [256]")
    args = parser.parse_args()

    llm = EngineArgs.from_cli_args(args).create_engine()
    params = SamplingParams(temperature=args.temperature, max_tokens=args.max_tokens)
    prompts: list[str | list[int]] = list(QUESTIONS)
    if llm.tokenizer.has_chat_template:
        chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
        texts = [llm.tokenizer.apply_chat_template(chat, enable_thinking=True) for chat in chats]
        prompts = [llm.tokenizer.encode(text, add_special_tokens=False) for text in texts]

    llm.generate("warm-up", SamplingParams(max_tokens=4))
    outputs = llm.generate(prompts, params)
    for question, output in zip(QUESTIONS, outputs):
        print(f"\n=== {question}\n{output['text'].strip()}")
        print(f"--- {output['num_tokens_input']} + {output['num_tokens_output']} tokens, {output['finish_reason']}, "
              f"first token {output['ttft']:.3f} s, then {output['tpot'] * 1e3:.1f} ms each")
    print()
    llm.print_mtp_statistics()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"simple_inference: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
