"""What every command shares: help, version, wrong flags, exit statuses, one-line errors."""
import subprocess

import pytest

from conftest import BINARY, ROOT

GOLDEN_MODEL = str(ROOT / "tests" / "golden" / "models" / "llama-gqa-bf16")
COMMANDS = ["serve", "generate", "chat", "tokenize", "render", "inspect"]


def one_line_error(result, status):
    assert result.returncode == status, (result.returncode, result.stderr)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("atom: ")
    return lines[0]


def test_version_and_help(atom):
    version = atom("--version")
    assert version.returncode == 0 and version.stdout.startswith("atom ")
    overview = atom("--help")
    assert overview.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in overview.stdout
    assert "Exit status" in overview.stdout


def test_no_command_shows_the_help_and_fails(atom):
    result = atom()
    assert result.returncode == 2 and "Commands:" in result.stderr


@pytest.mark.parametrize("name, nearest", [("srve", "serve"), ("genrate", "generate"), ("token", "tokenize")])
def test_a_misspelt_command_is_answered_with_the_nearest(atom, name, nearest):
    assert one_line_error(atom(name), 2).endswith(f"did you mean {nearest}?")


@pytest.mark.parametrize("arguments, stdin", [
    (["--help"], ""), (["--version"], ""), (["serve", "--help"], ""), (["render"], '{"template":"a"}\n'),
    (["inspect", GOLDEN_MODEL], ""), (["tokenize", "--model", GOLDEN_MODEL], "a\n"),
    (["generate", "--model", GOLDEN_MODEL, "--prompt", "a", "--max-tokens", "2"], "")])
def test_a_full_disk_is_said_and_is_a_failure(arguments, stdin):
    with open("/dev/full", "w") as full:
        result = subprocess.run([BINARY, *arguments], input=stdin, stdout=full, stderr=subprocess.PIPE, text=True,
                                timeout=120, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("atom: stdout: ") and len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.parametrize("arguments, line", [(["render"], '{"template":"a"}\n'), (["tokenize", "--model", GOLDEN_MODEL], "a\n")])
def test_a_reader_that_goes_away_is_not_worth_a_word(arguments, line):
    process = subprocess.Popen([BINARY, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    with pytest.raises(BrokenPipeError):  # it ends while there still is input
        for _ in range(10**6):
            process.stdin.write(line * 1000)
    assert process.wait(timeout=60) == 1 and process.stderr.read() == ""
    process.stderr.close()
