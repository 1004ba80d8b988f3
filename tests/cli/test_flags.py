"""Wrong flags and values on the real binary: exit status 2, one line, nothing loaded."""
import subprocess

import pytest

from conftest import ROOT

ENGINE_COMMANDS = ["serve", "generate", "chat", "inspect"]

WRONG = [
    (["--modle", "x"], "--modle: unknown flag; did you mean --model?"),
    (["--max_model_length", "5"], "did you mean --max-model-len?"),
    (["--block-size", "7"], "--block-size: 7: "),
    (["--block_size=x"], "--block-size: x: not a whole number"),
    (["--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization: 1.5: "),
    (["--gpu_memory_utilization", "nan"], "--gpu-memory-utilization: nan: "),
    (["--kv-cache-dtype", "int3"], "allowed: bf16, fp8"),
    (["--max-num-seqs", "0"], "--max-num-seqs: 0: "),
    (["--max-model-len", "1"], "--max-model-len: 1: "),
    (["--model"], "--model: needs a value"),
    (["--model", ""], "--model: (empty): needs a value"),
    (["-tp", "2"], "--tensor-parallel-size: 2: not supported yet"),
    (["-tp", "0"], "--tensor-parallel-size: 0: out of range"),
    (["-dp", "2"], "--data-parallel-size: 2: not supported yet"),
    (["--method", "eagle"], "--method: eagle: "),
    (["--speculative-config", '{"method": "ngram", "draft_model": "x"}'], "--speculative-config: draft_model: unknown key"),
    (["--num-speculative-tokens", "2"], "--num-speculative-tokens: 2: needs --method"),
    (["--method", "mtp", "--prompt-lookup-max", "3"], "--prompt-lookup-max: 3: only with --method ngram"),
    (["--enable-expert-parallel"], "--enable-expert-parallel: true: not supported yet"),
    (["--enable_dp_attention"], "not supported yet"),
    (["--device", "hip"], "--device: hip: not supported yet"),
    (["--quantization", "int2"], "allowed: fp8"),
    (["--quantization", "fp8", "--device", "cpu"], "--quantization: fp8: not supported yet"),
    (["--torch-profiler-dir", ""], "needs a value"),
    (["--level", "9"], "--level: 9: out of range; allowed: 0 to 3"),
    (["--enforce-eager=1"], "--enforce-eager: takes no value"),
]


@pytest.mark.parametrize("flags, message", WRONG)
def test_wrong_flags_are_refused_in_one_line(atom, flags, message):
    for command in ENGINE_COMMANDS:
        result = atom(command, *flags)
        assert result.returncode == 2, (command, result.stderr)
        lines = result.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("atom: --"), result.stderr
        assert message in lines[0]
        assert result.stdout == ""


@pytest.mark.parametrize("flags", [["--temperature", "-1"], ["--top-p", "0"], ["--max-tokens", "0"], ["--n", "129"]])
def test_sampling_ranges(atom, flags):
    result = atom("generate", "--model", "x", "--prompt", "x", *flags)
    assert result.returncode == 2 and f"{flags[0]}: {flags[1]}: out of range" in result.stderr


@pytest.mark.parametrize("command", ["serve", "generate", "chat", "tokenize", "render", "inspect"])
def test_help_is_grouped_and_fits_the_terminal(atom, command):
    result = atom(command, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(f"Usage: atom {command} ")
    assert max(map(len, result.stdout.splitlines())) <= 100


@pytest.mark.parametrize("flags, message", [
    (["--server-port", "70000"], "--server-port: 70000: "),
    (["--max-n", "0"], "--max-n: 0: "),
    (["--api-key", ""], "--api-key: (empty): needs a value"),
    (["--timeout-keep-alive", "-1"], "--timeout-keep-alive: -1: "),
    (["--default-chat-template-kwargs", "[1]"], "--default-chat-template-kwargs: "),
])
def test_server_flags_are_refused_before_a_model_is_looked_for(atom, flags, message):
    result = atom("serve", "--model", "/not/there", *flags)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("atom: --") and message in line


def test_help_shows_defaults_and_units(atom):
    text = atom("generate", "--help").stdout
    for part in ["--max-num-batched-tokens TOKENS", "[16384]", "--kv-cache-memory-gb GIB", "{bf16, fp8}", "[on]"]:
        assert part in text


def test_a_value_may_begin_with_a_dash(atom, demo_model):
    result = atom("generate", demo_model, "--prompt", "- one\n- two\n-", "--max-tokens", "1", "--temperature", "0")
    assert result.returncode == 0, result.stderr


def test_a_repeated_flag_warns_and_the_last_counts(atom):
    result = atom("inspect", "--level", "9", "--level", "1", "--model", "/not/there")
    assert result.returncode == 1
    assert "--level: given more than once" in result.stderr


@pytest.mark.parametrize("command", [["serve"], ["bench", "sweep"], ["trace", "summary"]])
def test_help_with_a_command_is_its_help(atom, command):
    result = atom("help", *command)
    assert result.returncode == 0 and result.stdout == atom(*command, "--help").stdout


def test_a_stray_argument_is_a_wrong_command_line(atom):
    for arguments in (["serve", "a", "b"], ["render", "a"]):
        result = atom(*arguments)
        assert result.returncode == 2 and "unexpected argument" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_every_script_explains_itself(script):
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 2 and done.stderr == ""


@pytest.mark.parametrize("arguments", [["start_atom_server.sh"], ["start_atom_server.sh", "model", "1", "x"],
                                       ["run_benchmark.sh", "model", "8000", "8", "8", "many"],
                                       ["wait_server_ready.sh", "x"], ["wait_infer_drain.sh", "8000", "soon"]])
def test_wrong_arguments_of_a_script(arguments):
    done = subprocess.run([ROOT / "scripts" / arguments[0], *arguments[1:]], capture_output=True, text=True, timeout=20,
                          check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "MODEL TP PORT" in done.stderr if len(arguments) == 1 else "a whole number expected" in done.stderr
