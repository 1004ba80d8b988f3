"""--device on a machine without a GPU: one clear line, or the CPU without a fuss."""
import ctypes
import os
import pathlib
import shutil
import subprocess

import pytest
from conftest import BINARY

BACKEND = os.environ.get("ATOM_CUDA_BACKEND")
MODEL = pathlib.Path(__file__).resolve().parents[1] / "golden" / "models" / "llama-gqa-bf16"


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
        return True
    except OSError:
        return False


@pytest.fixture
def program(tmp_path):
    """program(with_backend) -> path of a copy of the program, with or without the backend beside it."""

    def copy(with_backend):
        if with_backend and not BACKEND:
            pytest.skip("no CUDA backend was built (ATOM_CUDA_BACKEND)")
        if with_backend and has_driver():
            pytest.skip("this machine has a driver")
        shutil.copy(BINARY, tmp_path / "atom")
        if with_backend:
            shutil.copy(BACKEND, tmp_path / "libatom_cuda.so")
        return str(tmp_path / "atom")

    return copy


def serve(program, *flags):
    return subprocess.run([program, "serve", "--model", str(MODEL), "--server-port", "0", *flags],
                          capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("with_backend, message", [(False, "no libatom_cuda.so beside the program"),
                                                   (True, "no NVIDIA driver")])
def test_a_device_that_is_not_there_is_one_line(program, with_backend, message):
    result = serve(program(with_backend), "--device", "cuda")
    assert result.returncode not in (0, -6, -11)
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert len(lines) == 1 and "--device cuda: " in lines[0] and message in lines[0], result.stderr


@pytest.mark.parametrize("with_backend", [False, True])
def test_auto_falls_back_to_the_cpu(program, with_backend):
    result = subprocess.run([program(with_backend), "generate", "--model", str(MODEL), "--prompt", "a",
                             "--max-tokens", "2"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    told = [line for line in result.stderr.splitlines() if "running on the CPU" in line]
    assert len(told) <= (1 if with_backend else 0), result.stderr
