"""What the Python package costs: import, engine to first token, and the calling thread's share of a batch.

    .venv-python/bin/python benchmarks/python_overhead.py MODEL [NUM_PROMPTS] [MAX_TOKENS]

Results: docs/benchmarks/python.md. CPU seconds, because they hold on a machine that does other work too.
"""
import sys
import time

start_cpu, start_wall = time.process_time(), time.perf_counter()
from atom import LLMEngine, SamplingParams  # noqa: E402  (its import is what is measured)

print(f"import atom: {time.process_time() - start_cpu:.3f} s CPU, {time.perf_counter() - start_wall:.3f} s wall")

model = sys.argv[1]
num_prompts = int(sys.argv[2]) if len(sys.argv) > 2 else 256
max_tokens = int(sys.argv[3]) if len(sys.argv) > 3 else 8

engine = LLMEngine(model, max_model_len=1024, kv_cache_memory_gb=0.5, enable_prefix_caching=False)
engine.generate("The capital of France is", SamplingParams(max_tokens=1))
print(f"import, LLMEngine, first token: {time.process_time() - start_cpu:.3f} s CPU")

prompts = [f"Question {i}: what is the capital of country number {i}?" for i in range(num_prompts)]
params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
thread, process, wall = time.thread_time(), time.process_time(), time.perf_counter()
outputs = engine.generate(prompts, params)
thread, process, wall = time.thread_time() - thread, time.process_time() - process, time.perf_counter() - wall
tokens_in = sum(output["num_tokens_input"] for output in outputs)
tokens_out = sum(output["num_tokens_output"] for output in outputs)
print(f"generate, {tokens_in} tokens in, {tokens_out} out: calling thread {thread:.3f} of {process:.2f} s CPU = "
      f"{thread / process:.2%}; {wall:.1f} s wall")
