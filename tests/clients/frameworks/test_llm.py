"""The `llm` command with the server in extra-openai-models.yaml, as its documentation says."""
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from llm.cli import cli

from demo import NAME
from running_server import wait_until

LLM = str(pathlib.Path(sys.executable).parent / "llm")


@pytest.fixture(scope="module")
def llm(base_url, tmp_path_factory):
    home = tmp_path_factory.mktemp("llm")
    (home / "extra-openai-models.yaml").write_text(
        f"- model_id: atom\n  model_name: {NAME}\n  api_base: {base_url}\n"
        f"- model_id: atom-text\n  model_name: {NAME}\n  api_base: {base_url}\n  completion: true\n"
        f"- model_id: missing\n  model_name: other\n  api_base: {base_url}\n")
    environment = {"LLM_USER_PATH": str(home), "LLM_LOAD_PLUGINS": ""}

    def run(*arguments):
        done = CliRunner(env=environment).invoke(cli, arguments, input="")
        return done.exit_code, done.output.strip()

    run.environment = {**os.environ, **environment}
    return run


def test_prompt_with_and_without_stream(llm):
    options = ["-m", "atom", "-s", "Be short.", "-o", "temperature", "0", "-o", "max_tokens", "8"]
    code, streamed = llm(*options, "Name three colours.")
    assert code == 0 and streamed
    assert llm(*options, "--no-stream", "Name three colours.") == (0, streamed)
    code, answer = llm("-c", "-o", "max_tokens", "4", "And one more?")  # goes on with the conversation
    assert code == 0 and answer, answer
    code, text = llm("-m", "atom-text", "-o", "max_tokens", "4", "-o", "temperature", "0", "The sky is")
    assert code == 0 and text, text


def test_error_and_interrupt(llm, demo):
    code, output = llm("-m", "missing", "Hi")
    assert code == 1 and "does not exist" in output
    process = subprocess.Popen([LLM, "-m", "atom", "-o", "max_tokens", "1900", "-o", "logit_bias", '{"2": -100}', "Count to a thousand."],
                               stdout=subprocess.PIPE, env=llm.environment)
    assert process.stdout.read(1)

    def interrupted():  # again when it is not enough: Python drops an interrupt that meets a destructor
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=2) is not None
        except subprocess.TimeoutExpired:
            return False

    assert any(interrupted() for _ in range(5)), "llm goes on after five interrupts"
    assert wait_until(lambda: demo.metric("atom:num_sequences_in_flight") == 0)
