"""``python -m atom.entrypoints.openai_server FLAGS`` becomes ``atom serve FLAGS``, in the same process."""
from atom._program import run_program

if __name__ == "__main__":
    run_program("atom.entrypoints.openai_server", "serve")
