"""Every command of the original's three pages, word for word (models, ports and the size of loads aside).

The pages are not in this repository; without them (ATOM_SHARED_DIR, else ../shared) this is skipped. Names of models stay
as they are: a hub cache holds a tiny model under each. TABLE says what becomes of each command; one that is not in it, and
a row that no command has, fail.
"""
import ast
import dataclasses
import os
import re

import pytest

from hub_cache import HUB, make_hub, shared_folder
from pages import blocks, commands
from shell import ROOT, Finished

PAGES = [shared_folder() / "reference" / name for name in ("atom_serving_guide.md", "atom_readme.md", "atom_workflows.md")]
if missing := [str(page) for page in PAGES if not page.is_file()]:
    pytest.skip("the original's pages are not here: " + ", ".join(missing), allow_module_level=True)

# Placeholders, and loads cut to what two cores do in seconds; ATOM_FULL_LOADS=1 leaves those as they are.
SUBSTITUTIONS = [(r"<model(_name_or_path)?>|(?<=--model )…", "deepseek-ai/DeepSeek-R1")]
if os.environ.get("ATOM_FULL_LOADS") != "1":
    SUBSTITUTIONS += [(r"\bISL=1024\b", "ISL=32"), (r"\bOSL=1024\b", "OSL=8"), (r"\bCONC=128\b", "CONC=4"),
                      (r"(--num-prompts) (1000|100|80)\b", r"\1 8"),
                      (r"(--random-(?:in|out)put-len) (1024|128)\b", r"\1 16")]

RUN, SERVER, SEVERAL_DEVICES = "run", "server", "server on several devices"
TABLE = [  # (a command, what becomes of it, or why it is not executed here and what is instead)
    (r"python3? -m atom\.entrypoints\.openai_server (.* )?-tp (8|\$tp).*", SEVERAL_DEVICES),
    (r"python3? -m atom\.entrypoints\.openai_server .*", SERVER),
    (r"python3? -m atom\.benchmarks\.benchmark_serving .*", RUN),
    (r"python -m atom\.examples\.(simple_inference|profile_offline) .*", RUN),
    (r"curl .*", RUN),
    (r"kill -0 \$PID", RUN),
    (r"[A-Z_]+=\S+", RUN),
    (r"lm_eval .*", "tests/clients: the harness's requests and readings; docs/accuracy.md: the harness itself"),
    (r"pip install lm-eval\[api\]", "somebody else's package"),
    (r"docker (pull|run) .*", "the image is AMD's; ATOM is one program and needs none"),
    (r"pip install amd-aiter", "somebody else's package, of which nothing is needed"),
    (r"git clone https://github\.com/ROCm/ATOM\.git.* pip install .*", "tests/python/test_install.py, test_readme_and_guide.py"),
]


def row_of(command):
    return next((i for i, (pattern, _) in enumerate(TABLE) if re.fullmatch(pattern, command, re.S)), None)


def inline_commands(path):
    """Commands in the running text of a page, as `code`."""
    spans = re.findall(r"`([^`]+)`", path.read_text())
    spans = [" ".join(span.split()).rstrip("… ") for span in spans]
    return [span for span in spans if re.match(r"(python3? -m|curl|kill) ", span)]


def all_commands():
    found = [(page.name, command) for page in PAGES[:2] for block in blocks(page) if block.language == "bash"
             for command in commands(block.text)]
    return found + [(PAGES[2].name, command) for command in inline_commands(PAGES[2])]


COMMANDS = all_commands()


def test_each_command_has_its_row_and_each_row_its_command():
    used = [row_of(command) for _, command in COMMANDS]
    assert None not in used, [command for command, row in zip(COMMANDS, used) if row is None]
    assert set(used) == set(range(len(TABLE))), [TABLE[i] for i in set(range(len(TABLE))) - set(used)]
    assert len(COMMANDS) > 45
    for script in re.findall(r"`(\w+\.sh)\b", PAGES[2].read_text()):
        assert os.access(ROOT / "scripts" / script, os.X_OK), script  # run by tests/cli/test_bench.py


@pytest.fixture(scope="module")
def shell(make_shell, tmp_path_factory):
    drafting = shared_folder() / "models" / "tiny-deepseek-v3-mtp"
    hub = make_hub(tmp_path_factory.mktemp("hub"), {**HUB, "deepseek-ai/DeepSeek-R1": drafting})
    shell = make_shell(hub, ATOM_TORCH_PROFILER_DIR="traces", MODEL="deepseek-ai/DeepSeek-R1", PORT="8000", tp="8",
                       PID=str(os.getpid()),
                       OMP_NUM_THREADS="1")
    shell.environment["PORT"] = shell.ports["8000"]
    return shell


def serve(shell, command):
    """Several devices are refused in one line; on one the command works."""
    if "-tp" in command:
        refused = shell.start_server(command)
        assert isinstance(refused, Finished), "a server started"
        assert refused.status == 2, refused
        assert re.fullmatch(r"atom: --tensor-parallel-size: [^\n]+\n", refused.output), refused.output
        command = re.sub(r" -tp (8|\$tp)", "", command)
    finished = shell.start_server(command)
    assert finished is None, finished.output
    if "--method mtp" in command:
        assert '"enabled":true' in shell.run("curl -s http://localhost:8000/debug/mtp_stats").output


@pytest.mark.parametrize("page, command", COMMANDS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(COMMANDS)])
def test_command(shell, page, command):
    del page
    kind = TABLE[row_of(command)][1]
    for pattern, text in SUBSTITUTIONS:
        command = re.sub(pattern, text, command)
    if kind in (SERVER, SEVERAL_DEVICES):
        serve(shell, command)
    elif kind == RUN:
        if "curl" in command or "benchmark_serving" in command:
            assert shell.server, "no server to ask"
        before = traces_in(shell)
        done = shell.run(command, timeout=590)
        assert done.status == 0, done.output
        check_output(command, done.output)
        if re.search(r"/stop_profile|--profile\b|profile_offline", command):
            assert len(traces_in(shell)) == len(before) + 1, "one trace for a capture"
        if "--save-result" in command:
            assert list(shell.folder.glob("**/*result*.json"))
    else:
        pytest.skip(kind)


def traces_in(shell):
    return list(shell.folder.glob("*traces/rank_0/*.pt.trace.json.gz"))


def check_output(command, output):
    """Beyond exit status 0: what each program must have printed."""
    if "benchmark_serving" in command:
        assert re.search(r"^Successful requests: +[1-9]", output, re.M), output
        assert not re.search(r"\bfailed\b", output), output
    if "simple_inference" in command:
        assert output.count("=== ") == 4 and "MTP Statistics:" in output, output
    if "/v1/chat/completions" in command:
        assert '"object":"chat.completion"' in output, output
    elif "/v1/completions" in command:
        assert output.rstrip().endswith("data: [DONE]"), output


def python_blocks():
    return [block.text for block in blocks(PAGES[0]) if block.language == "python"]


def test_the_dataclass_is_the_page_s():
    (declaration,) = [text for text in python_blocks() if "@dataclass" in text]
    (wanted,) = [node for node in ast.parse(declaration).body if isinstance(node, ast.ClassDef)]
    fields = [(node.target.id, ast.literal_eval(node.value)) for node in wanted.body]
    import atom

    ours = dataclasses.fields(getattr(atom, wanted.name))
    assert [(f.name, f.default) for f in ours[:len(fields)]] == fields


def test_the_python_snippets(shell):
    """In order, as one program; its first line is what the snippets leave to their reader."""
    snippets = "\n".join(text for text in python_blocks() if "@dataclass" not in text)
    prelude = "prompts, sampling_params, my_callback = ['Hi'], None, lambda output: print('callback', output.request_id)\n"
    refused = shell.run(prelude + snippets, "python")
    assert refused.status == 1 and "ValueError: tensor_parallel_size: 8: not supported yet" in refused.output, refused.output
    single, replaced = re.subn(r"tensor_parallel_size=8", "tensor_parallel_size=1", snippets)
    assert replaced == 1
    done = shell.run(prelude + single, "python", timeout=120)
    assert done.status == 0, done.output
    assert "callback" in done.output and "MTP Statistics:" in done.output
    assert list((shell.folder / "traces" / "rank_0").iterdir())
