"""``python -m atom COMMAND FLAGS`` becomes ``atom COMMAND FLAGS``, in the same process."""
from atom._program import run_program

if __name__ == "__main__":
    run_program("atom")
