"""atom generate on the demo model: text, speed line, JSON, seeds, stops, and a reader that goes away."""
import json
import os
import subprocess

from conftest import BINARY


def generate(atom, model, *flags, stdin=""):
    result = atom("generate", model, "--max-tokens", "8", *flags, stdin=stdin)
    assert result.returncode == 0, result.stderr
    return result


def test_text_on_stdout_and_speed_on_stderr(atom, demo_model):
    result = generate(atom, demo_model, "--prompt", "The capital of France is", "--temperature", "0")
    assert result.stdout.startswith(" Paris")
    assert result.stdout.endswith("\n")
    (line,) = result.stderr.splitlines()
    assert "tokens/s" in line and line.startswith("prompt 5 tokens")


def test_the_prompt_may_come_from_stdin(atom, demo_model):
    flags = ["--temperature", "0"]
    from_flag = generate(atom, demo_model, "--prompt", "One, two, three,", *flags)
    from_stdin = generate(atom, demo_model, *flags, stdin="One, two, three,\n")
    assert from_stdin.stdout == from_flag.stdout


def test_json_has_the_keys_of_the_python_api(atom, demo_model):
    result = generate(atom, demo_model, "--prompt", "Hello", "--json", "--logprobs", "2", "--n", "2", "--seed", "5")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == 2
    for answer in answers:
        for key in ["text", "token_ids", "latency", "finish_reason", "num_tokens_input", "num_tokens_output", "ttft", "tpot"]:
            assert key in answer
        assert answer["num_tokens_output"] == len(answer["token_ids"]) == len(answer["logprobs"]) <= 8
        assert all(len(entry["top_logprobs"]) == 2 for entry in answer["logprobs"])
    assert answers[0]["token_ids"] != answers[1]["token_ids"], "choices of one seed differ"


def test_a_seed_repeats_the_text(atom, demo_model):
    flags = ["--prompt", "Once", "--temperature", "1", "--seed"]
    first = generate(atom, demo_model, *flags, "11").stdout
    assert generate(atom, demo_model, *flags, "11").stdout == first
    assert generate(atom, demo_model, *flags, "12").stdout != first


def test_stop_text_ends_the_answer_and_is_not_shown(atom, demo_model):
    result = generate(atom, demo_model, "--prompt", "1, 2, 3, 4,", "--temperature", "0", "--json", "--stop", "6")
    answer = json.loads(result.stdout)
    assert answer["finish_reason"] == "stop"
    assert "5" in answer["text"] and "6" not in answer["text"]


def test_an_empty_prompt_is_refused(atom, demo_model):
    result = atom("generate", demo_model, stdin="")
    assert result.returncode == 1
    assert result.stderr == "atom: the prompt is empty\n"


def test_a_prompt_longer_than_the_context_is_refused_with_the_number(atom, demo_model):
    result = atom("generate", demo_model, "--max-model-len", "16", "--prompt", "word " * 40)
    assert result.returncode == 1
    assert "16" in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_ends_it_quietly(demo_model):
    process = subprocess.Popen([BINARY, "generate", demo_model, "--prompt", "Once", "--ignore-eos", "--max-tokens", "4000"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    assert process.wait(timeout=120) == 1
    assert process.stderr.read() == b""
    process.stderr.close()
