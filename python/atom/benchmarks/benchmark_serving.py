"""``python -m atom.benchmarks.benchmark_serving FLAGS`` becomes ``atom bench serve FLAGS``, in the same process."""
from atom._program import run_program

if __name__ == "__main__":
    run_program("atom.benchmarks.benchmark_serving", "bench", "serve")
