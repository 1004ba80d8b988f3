"""README.md and docs/guide.md: every block is run, in order, and prints what the page shows under it.

A word after the language of a fence says how:
  server   typed in a second terminal, answers on its port, ends by Ctrl-C when the next one starts
  fails    ends with a status other than 0
  gpu      needs a GPU or several; here, where none is visible, it is refused in one line that names a flag
  setup    installs or builds; each command is checked by KNOWN_SETUP instead
  lm-eval  needs the evaluation harness and its data sets, and is not run here
What is substituted: shell.py. Models by name come from a hub cache of tiny ones, and what README.md leaves to its reader
(DIR, model.gguf, lines.txt, requests.jsonl) is put into the folder.
"""
import os
import pathlib
import re
import subprocess
import sys

import pytest

from hub_cache import GOLDEN
from pages import blocks, commands, shows
from shell import ROOT

PAGES = [ROOT / "README.md", ROOT / "docs" / "guide.md"]
TAGS = {"server", "fails", "gpu", "setup", "lm-eval"}
BLOCKS = [block for page in PAGES for block in blocks(page) if block.language in ("bash", "python")]
# Long flags on the pages that belong to other programs.
FOREIGN_FLAGS = {"--model_args", "--tasks", "--num_fewshot", "--no-deps", "--build", "--preset", "--help", "--version"}


def make_target(target):
    return subprocess.run(["make", "-n", *target.split()], cwd=ROOT, capture_output=True, check=False).returncode == 0


# A command of a setup block, and what shows that it would work.
KNOWN_SETUP = [
    (r"git clone <this repository> atom && cd atom", lambda _: (ROOT / "Makefile").is_file()),
    (r"make (.+)", make_target),
    (r"pip install \.", lambda _: (ROOT / "pyproject.toml").is_file()),  # tests/python/test_install.py
    (r"pip install lm-eval\[api\]", lambda _: True),
]


@pytest.fixture(scope="module")
def shells(make_shell, hub, demo_model):
    """A terminal for each page."""
    shells = {}
    for page in PAGES:
        shell = shells[page.name] = make_shell(hub)
        os.symlink(GOLDEN / "qwen3-untied-bf16", shell.folder / "DIR")
        os.symlink(demo_model, shell.folder / "model.gguf")
        (shell.folder / "lines.txt").write_text("Hello world\n")
        (shell.folder / "requests.jsonl").write_text('{"template": "{{ a }}", "context": {"a": 1}}\n')
    return shells


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block(shells, block):
    assert set(block.tags) <= TAGS, block
    shell = shells[block.page]
    if "setup" in block.tags:
        for command in commands(block.text):
            checks = [check(match.groups()[-1] if match.groups() else "") for pattern, check in KNOWN_SETUP
                      if (match := re.fullmatch(pattern, command))]
            assert checks == [True], command
    elif "lm-eval" in block.tags:
        pytest.skip("the evaluation harness and its data sets are not here")
    elif "gpu" in block.tags:
        for command in commands(block.text):
            done = shell.run(command, timeout=60)
            assert done.status in (1, 2), done
            assert re.fullmatch(r"atom: --[^\n]+\n", done.output), done.output
    elif "server" in block.tags:
        done = shell.start_server(block.text)
        assert done is None, done.output
    else:
        done = shell.run(block.text, block.language, timeout=60 if "fails" in block.tags else 120)
        assert (done.status != 0) == ("fails" in block.tags), (done.status, done.output)
        if block.output is not None:
            expected = shell.substitute(block.output)
            assert shows(expected, done.output), f"the page shows\n{expected}\nbut it printed\n{done.output}"


def test_the_tables_of_flags_are_those_of_the_program():
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "flag_tables.py"), "--check"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_on_a_page_exists(shells, page):
    sources = list(pathlib.Path(ROOT / "python" / "atom" / "examples").glob("*.py"))
    known = set(re.findall(r"(--[a-z][\w-]*)", "".join(path.read_text() for path in sources)))
    for command in ("serve", "generate", "chat", "tokenize", "render", "inspect", "profile", "trace", "bench serve",
                    "bench sweep", "bench throughput", "bench latency", "bench compare"):
        known |= set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)", shells[page.name].run(f"atom {command} --help").output))
    known |= {flag.replace("_", "-") for flag in known} | {flag.replace("-", "_").replace("__", "--", 1) for flag in known}
    text = page.read_text().replace("--no-...", "")
    for block in blocks(page):
        if "fails" in block.tags:
            text = text.replace(block.text, "").replace(block.output or block.text, "")
    used = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*\w)", text))
    assert used - known - FOREIGN_FLAGS == set()


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target
