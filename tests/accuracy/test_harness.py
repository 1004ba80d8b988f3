"""lm-evaluation-harness, unmodified, against `atom serve`: that no request fails, that the scores are what the model truly has
(reference.py computes them from the file with numpy), and that they are the same however the requests are sent.
Run by scripts/test.sh in the environment of requirements.txt; the tasks are in tasks/."""
import json
import logging
import math
import os
import re
import shlex
import subprocess

import lm_eval
import pytest
from lm_eval.__main__ import cli_evaluate
from lm_eval.tasks import TaskManager

from conftest import TESTS, TINY
from demo import NAME, demo_model
from reference import Llama

TASKS = TESTS / "accuracy" / "tasks"
SCRIPT = TESTS.parent / "scripts" / "accuracy.sh"
LIKELIHOOD, GENERATION = ["atom_facts", "atom_last_words"], ["atom_short_answers"]
# What SmolLM2-135M-Instruct Q4_1 has; the width is for the roundings of different CPUs: 33, 10, 6.90, 1.224 and 15
# where the ranges were written. By chance: 12, 0.
FACTS, LAST_WORDS, PERPLEXITY, BITS_PER_BYTE, ANSWERS = (31, 35), (9, 11), (6.5, 7.3), (1.20, 1.25), (13, 17)


@pytest.fixture(scope="session")
def task_manager():
    return TaskManager(include_path=str(TASKS), include_defaults=False)


@pytest.fixture
def evaluate(task_manager, monkeypatch, caplog):
    """evaluate(server, tasks, model arguments) -> the harness's results; none of its requests may have failed."""
    monkeypatch.chdir(TASKS)

    def run(server, tasks, name=NAME, chat=False, batch_size=1, limit=None, **arguments):
        path = "chat/completions" if chat else "completions"
        arguments = {"model": name, "base_url": f"{server.base}/v1/{path}", "max_retries": 3, **arguments}
        with caplog.at_level(logging.INFO):
            results = lm_eval.simple_evaluate(
                model="local-chat-completions" if chat else "local-completions", model_args=arguments, tasks=tasks,
                batch_size=batch_size, limit=limit, apply_chat_template=chat, task_manager=task_manager, bootstrap_iters=0)
        assert not re.search("request failed|Exception:|Retry attempt|null content", caplog.text), caplog.text[-2000:]
        return results

    return run


def pairs_of(results):
    """(context, continuation) -> (log-probability, is_greedy) of every request of the log-likelihood tasks."""
    found = {}
    for samples in results["samples"].values():
        for sample in samples:
            for arguments, answer in zip(sample["arguments"], sample["resps"], strict=True):
                found[tuple(arguments)] = tuple(answer[0])
    return found


def tokens(server, text):
    import requests
    answer = requests.post(server.base + "/tokenize", json={"prompt": text, "add_special_tokens": False}, timeout=60)
    return answer.json()["tokens"]


def encoded(server, pair):
    """As the harness does it: spaces at the end of a context belong to what follows."""
    context = tokens(server, pair[0])
    return context, tokens(server, pair[0] + pair[1])[len(context):]


@pytest.fixture(scope="session")
def by_script(demo, tmp_path_factory):
    """All tasks with 64 requests at once, through scripts/accuracy.sh."""
    folder = tmp_path_factory.mktemp("accuracy")
    done = subprocess.run([SCRIPT, "--base-url", demo.base, "--output", folder], capture_output=True, text=True, timeout=300,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_scores_of_the_demo_model(by_script):
    folder, printed = by_script
    table = (folder / "table.md").read_text()
    assert table in printed and "local" not in table.splitlines()[0].split(":")[0]
    assert " 0 requests tried again" in table
    results = json.loads((folder / "results.json").read_text())["results"]
    for task, metric, (low, high), count in (
            ("atom_facts", "acc,none", FACTS, 48), ("atom_last_words", "acc,none", LAST_WORDS, 20),
            ("atom_short_answers", "exact_match,word", ANSWERS, 20)):
        assert results[task]["sample_len"] == count
        assert low <= results[task][metric] * count + 1e-9 and results[task][metric] * count - 1e-9 <= high, results[task]
        assert re.search(rf"\| {task} \| {count} \|.*\| {metric.split(',')[0]} \| higher \| {results[task][metric]:.4f} \|", table)
    assert PERPLEXITY[0] < results["atom_last_words"]["perplexity,none"] < PERPLEXITY[1]
    assert BITS_PER_BYTE[0] < results["atom_texts"]["bits_per_byte,none"] < BITS_PER_BYTE[1]


def script_samples(folder):
    """The requests of the log-likelihood tasks, as the harness wrote them down."""
    found = {}
    for task in LIKELIHOOD:
        for line in next(folder.glob(f"samples/samples_{task}_*.jsonl")).read_text().splitlines():
            sample = json.loads(line)
            for i, answer in enumerate(sample["resps"]):
                arguments = sample["arguments"][f"gen_args_{i}"]
                found[arguments["arg_0"], arguments["arg_1"]] = (float(answer[0][0]), str(answer[0][1]) == "True")
    return found


def test_likelihoods_are_the_models_own(demo, by_script):
    """Those of numpy on the same file. The server rounds activations to 8 bits for these weights: up to 0.1 a text."""
    scored = script_samples(by_script[0])
    assert len(scored) == 48 * 4 + 20
    pairs = list(scored)[:16] + list(scored)[-12:]
    oracle = Llama.of_gguf(demo_model()).score([encoded(demo, pair) for pair in pairs])
    differences = [scored[pair][0] - truth.logprob for pair, truth in zip(pairs, oracle, strict=True)]
    assert max(map(abs, differences)) < 0.2 and sum(map(abs, differences)) / len(pairs) < 0.04, differences
    for pair, truth in zip(pairs, oracle, strict=True):
        assert scored[pair][1] == truth.greedy or truth.margin < 0.1, (pair, truth)
    assert any(truth.greedy for truth in oracle) and not all(truth.greedy for truth in oracle)


def test_texts_in_batches_score_what_token_ids_do(demo, by_script, evaluate):
    """tokenized_requests=False, 8 texts a request, 8 requests at once: the same numbers to the last digit."""
    results = evaluate(demo, LIKELIHOOD, tokenized_requests=False, batch_size=8, num_concurrent=8)
    assert pairs_of(results) == script_samples(by_script[0])


@pytest.mark.parametrize("tokenized", [True, False])
def test_batches_one_after_another(demo, by_script, evaluate, tokenized):
    """num_concurrent=1 is another way through the harness."""
    results = evaluate(demo, LIKELIHOOD + GENERATION, tokenized_requests=tokenized, batch_size=16, num_concurrent=1, limit=6)
    scored, likelihoods = script_samples(by_script[0]), pairs_of({"samples": {t: results["samples"][t] for t in LIKELIHOOD}})
    assert len(likelihoods) == 6 * 4 + 6 and all(scored[pair] == value for pair, value in likelihoods.items())
    assert len(results["samples"]["atom_short_answers"]) == 6


def answers_of(results):
    return [sample["resps"][0][0] for sample in results["samples"]["atom_short_answers"]]


def test_generation_is_the_same_however_it_is_asked(demo, evaluate):
    ids = answers_of(evaluate(demo, GENERATION, tokenized_requests=True, num_concurrent=64))
    texts = answers_of(evaluate(demo, GENERATION, tokenized_requests=False, batch_size=4, num_concurrent=5))
    without = answers_of(evaluate(demo, GENERATION, tokenizer_backend="None", num_concurrent=64))
    assert ids == texts == without and len(ids) == 20 and all(ids)


def test_chat(demo, evaluate):
    results = evaluate(demo, GENERATION, chat=True, num_concurrent=64)
    answers = answers_of(results)
    assert len(answers) == 20 and all(answers)
    assert results["results"]["atom_short_answers"]["exact_match,word"] * 20 >= 1
    assert answers == answers_of(evaluate(demo, GENERATION, chat=True, num_concurrent=1))


@pytest.mark.parametrize("tokenized", [True, False])
def test_a_checkpoint_with_its_own_tokenizer(tiny, evaluate, tokenized):
    """tokenizer_backend=huggingface reads the checkpoint's directory; with weights in float32 the likelihoods are the oracle's."""
    results = evaluate(tiny, LIKELIHOOD, name="tiny", tokenizer_backend="huggingface", tokenizer=str(TINY),
                       tokenized_requests=tokenized, num_concurrent=64, max_length=512)
    scored = pairs_of(results)
    assert len(scored) == 48 * 4 + 20
    pairs = list(scored)
    oracle = Llama.of_directory(TINY).score([encoded(tiny, pair) for pair in pairs])
    differences = [abs(scored[pair][0] - truth.logprob) for pair, truth in zip(pairs, oracle, strict=True)]
    assert max(differences) < 0.02 and sum(differences) / len(pairs) < 0.001, differences  # of about -65 each
    assert all(scored[pair][1] == truth.greedy or truth.margin < 0.01 for pair, truth in zip(pairs, oracle, strict=True))


SUMS = [("Tom has 3 apples and buys 4 more. How many apples has he now?", "He has 3 + 4 = <<3+4=7>>7 apples.\n#### 7"),
        ("A box holds 6 eggs. How many eggs are in 3 boxes?", "3 boxes hold 3 * 6 = <<3*6=18>>18 eggs.\n#### 18"),
        ("Ann had 10 coins and lost 2. How many are left?", "There are 10 - 2 = <<10-2=8>>8 coins left.\n#### 8"),
        ("A book has 20 pages. Ben read 5. How many pages remain?", "20 - 5 = <<20-5=15>>15 pages remain.\n#### 15"),
        ("Each of 4 children gets 2 pears. How many pears is that?", "4 * 2 = <<4*2=8>>8 pears.\n#### 8")]


def test_the_command_of_the_guide(demo, tmp_path, monkeypatch, capfd):
    """Word for word, but for the model and the port, with the harness's own gsm8k. Its data set is not on this machine: a folder
    of the same name and form stands for it, whose questions are among the examples, so that copying answers them."""
    folder = tmp_path / "openai" / "gsm8k"
    folder.mkdir(parents=True)
    for split, rows in (("train", SUMS), ("test", SUMS[1:4])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    files = "".join(f"  - {{split: {split}, path: {split}.jsonl}}\n" for split in ("train", "test"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: main\n  data_files:\n{files}---\n")
    page = (TESTS.parent / "docs" / "guide.md").read_text()
    command = re.search(r"^lm_eval --model local-completions .*?(?=\n```)", page, re.S | re.M)[0]
    command = command.replace("Qwen/Qwen3-0.6B", NAME).replace("http://localhost:8000", demo.base)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", shlex.split(command.replace("\\\n", " ")))
    cli_evaluate()
    printed = capfd.readouterr()
    for rule in ("strict-match", "flexible-extract"):
        assert re.search(rf"{rule} *\| *5\|exact_match\|↑ *\| *(1|0\.6667) *\|", printed.out), printed.out + printed.err[-2000:]
    assert not re.search("request failed|Exception:|Retry attempt", printed.err)


@pytest.mark.parametrize("arguments, message", [
    (["--tasks", "atom_fact"], "accuracy: no task atom_fact in "),
    (["--base-url", "http://127.0.0.1:9"], "accuracy: no OpenAI server answers at http://127.0.0.1:9"),
    (["--model", "/nowhere/model.gguf"], "accuracy: the server did not start: .*/nowhere/model.gguf"),
    (["--limit", "few"], "accuracy: --limit: few: a whole number expected"),
    (["--tasks"], "accuracy: --tasks: a value expected"),
    (["--endpoint", "embeddings"], "accuracy: --endpoint: embeddings: completions or chat expected"),
    (["--tokenizer", "/nowhere"], "accuracy: --tokenizer: /nowhere: remote, none or a directory expected"),
    (["--verbose", "1"], "accuracy: --verbose: unknown flag"),
])
def test_what_is_wrong_is_said_in_one_line(tmp_path, arguments, message):
    done = subprocess.run([SCRIPT, "--output", tmp_path, *arguments], capture_output=True, text=True, timeout=60, check=False,
                          env=os.environ)
    assert done.returncode in (1, 2) and re.match(message, done.stderr) and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.glob("table.md"))
