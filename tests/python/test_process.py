"""The package in a process of its own: start, signals, fork, spawn, exit; `python -m` and the examples."""
import os
import signal
import socket
import subprocess
import sys
import time

from atom._program import program_path

ENGINE = "from atom import LLMEngine, SamplingParams\ne = LLMEngine(MODEL, max_model_len=512, kv_cache_memory_gb=0.1)\n"
ENDLESS = "SamplingParams(max_tokens=480, ignore_eos=True)"


def test_importing_is_cheap(run_python):
    code = ("import time; begin = time.process_time(); import atom; print(time.process_time() - begin)\n"
            "import sys; print(sorted(name for name in ('asyncio', 'numpy', 'torch', 'json') if name in sys.modules))")
    cost, heavy = run_python(code).stdout.splitlines()
    assert float(cost) < 0.5  # measured: see docs/benchmarks; this only catches a heavy import
    assert heavy == "[]", heavy


def test_a_live_engine_at_exit_is_no_trouble(run_python):
    for ending in ("", f"e.add_request('Go', {ENDLESS})", f"e.add_request('Go', {ENDLESS}); e.step()",
                   "import threading\n"
                   f"threading.Thread(target=lambda: e.generate('Go', {ENDLESS}), daemon=True).start(); import time; time.sleep(0.3)",
                   "import sys; sys.exit(7)"):
        result = run_python(ENGINE + ending)
        assert (result.returncode, result.stderr) == (7 if "exit" in ending else 0, ""), ending


def test_an_uncaught_error_ends_the_process_as_usual(run_python):
    result = run_python(ENGINE + "raise KeyError('mine')")
    assert result.returncode == 1 and result.stderr.rstrip().endswith("KeyError: 'mine'")


def interrupt_when(demo_model, code, line, env=None):
    """Runs code, sends SIGINT when it has printed `line`; returns exit status, output and how long it then took."""
    process = subprocess.Popen([sys.executable, "-c", f"MODEL = {demo_model!r}\n{code}"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd="/", env={**os.environ, **(env or {})})
    assert process.stdout.readline().strip() == line
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err, time.monotonic() - sent


def test_ctrl_c_interrupts_and_the_engine_goes_on(demo_model):
    for waiting in (f"e.generate(['Go'] * 32, {ENDLESS})",
                    f"e.add_request(['Go'] * 32, {ENDLESS})\n  while True: e.step()"):
        code = (ENGINE + "print('ready', flush=True)\ntry:\n  " + waiting + "\nexcept KeyboardInterrupt:\n"
                "  print(len(e.generate('Hi', SamplingParams(max_tokens=3))))")
        status, out, err, _ = interrupt_when(demo_model, code, "ready")
        assert (status, out, err) == (0, "1\n", "")


def test_ctrl_c_ends_a_download(demo_model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path),
               "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        code = "from atom import LLMEngine\nprint('ready', flush=True)\nLLMEngine('somebody/some-model')"
        status, _, err, seconds = interrupt_when(demo_model, code, "ready", env)
        assert err.rstrip().endswith("KeyboardInterrupt") and status == 130
        assert seconds < 10


def test_a_forked_child_is_told(run_python):
    code = ENGINE + """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on Python itself warns of fork() beside threads
pid = os.fork()
if pid == 0:
    for call in (lambda: e.generate('x'), lambda: e.add_request('x'), lambda: e.stats()):
        try: call()
        except RuntimeError as error: assert 'forked' in str(error), error
        else: os._exit(1)
    del e
    other = LLMEngine(MODEL, max_model_len=256, kv_cache_memory_gb=0.05)
    assert len(other.generate('x')) == 1
    sys.exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
print(len(e.generate('x')))
"""
    result = run_python(code)
    assert (result.stdout, result.stderr, result.returncode) == ("1\n", "", 0)


def test_pickling_is_refused(run_python):
    result = run_python(ENGINE + "import pickle\npickle.dumps(e)")
    assert "TypeError: an LLMEngine has threads" in result.stderr


def test_python_m_becomes_the_program(run_python):
    for module, command in (("atom.entrypoints.openai_server", ["serve"]),
                            ("atom.benchmarks.benchmark_serving", ["bench", "serve"]), ("atom", [])):
        native = subprocess.run([program_path(), *command, "--help"], capture_output=True, text=True, check=True)
        assert run_python(["-m", module, "--help"]).stdout == native.stdout
        wrong = run_python(["-m", module, "--no-such-flag"])
        assert wrong.returncode == 2 and "no-such-flag" in wrong.stderr


def test_the_server_is_the_same_process(demo_model):
    process = subprocess.Popen(
        [sys.executable, "-m", "atom.entrypoints.openai_server", "--model", demo_model, "--host", "127.0.0.1",
         "--server-port", "0", "--max-model-len", "256", "--kv-cache-memory-gb", "0.05"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
    try:
        for line in process.stdout:
            if "127.0.0.1:" in line:
                break
        assert os.path.samefile(f"/proc/{process.pid}/exe", program_path())
        with open(f"/proc/{process.pid}/cmdline", encoding="utf-8") as file:
            assert file.read().startswith("atom.entrypoints.openai_server\0serve\0")
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_examples_of_the_guide(run_python, demo_model, tmp_path):
    small = ["--max-model-len", "512", "--kv-cache-memory-gb", "0.1"]
    result = run_python(["-m", "atom.examples.simple_inference", "--model", demo_model, "--temperature", "0.6",
                         "--max-tokens", "8", *small])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("=== ") == 4 and "MTP Statistics:" in result.stdout
    result = run_python(["-m", "atom.examples.profile_offline", "--model", demo_model, "--kv_cache_dtype", "fp8",
                         "--torch-profiler-dir", str(tmp_path / "traces"), "--input-length", "128", "--output-length", "4",
                         "--bs", "4", "--random-input", *small])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("4 x 128 tokens in, 16 out: ")
    (trace,) = (tmp_path / "traces" / "rank_0").iterdir()
    assert result.stdout.endswith(f"\ntrace: {trace}\n") and trace.name.endswith(".pt.trace.json.gz")
    result = run_python(["-m", "atom.examples.simple_inference", "--model", demo_model, "-tp", "8"])
    assert result.returncode == 1
    assert result.stderr.startswith("simple_inference: tensor_parallel_size: 8: not supported yet")
