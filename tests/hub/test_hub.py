"""Downloading a model by its hub name: cache layout, resume, verification, and what can go wrong."""
import hashlib
import json
import os
import pathlib
import pty
import resource
import signal
import threading
import time

import pytest

from fake_hub import COMMIT, tiny_model

WEIGHTS = "model.safetensors"


def repo_dir(cache):
    return cache / "models--org--tiny"


def snapshot(cache):
    return repo_dir(cache) / "snapshots" / COMMIT


def refused(result, *parts):
    """Exit status 1 and one error line that says all of `parts`; log lines may come before it."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert len(errors) == 1, result.stderr
    for part in ("org/tiny", *parts):
        assert part in errors[0], errors[0]


def served(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def no_weights_kept(cache):
    blobs = repo_dir(cache) / "blobs"
    large = [p for p in blobs.iterdir() if p.stat().st_size > 100_000] if blobs.exists() else []
    return not large and not (snapshot(cache) / WEIGHTS).exists()


@pytest.mark.parametrize("sharded", [False, True])
def test_download_leaves_the_cache_of_huggingface_hub(hub, cache, inspect, sharded):
    hub.files = tiny_model(sharded)
    assert served(inspect("org/tiny"))["architecture"] == "LlamaForCausalLM"
    assert (repo_dir(cache) / "refs" / "main").read_text() == COMMIT
    present = sorted(p.name for p in snapshot(cache).iterdir())
    weights = [n for n in hub.files if n.startswith("model") and n.endswith(".safetensors")]
    small = [n for n in hub.files if n.endswith(".json")]
    assert present == sorted(weights + small)
    for name in present:
        link = os.readlink(snapshot(cache) / name)
        assert link == f"../../blobs/{hub.true_etag(name)}"
        assert (snapshot(cache) / name).read_bytes() == hub.files[name]
    assert not list((repo_dir(cache) / "blobs").glob("*.incomplete"))
    assert hub.asked_files() == set(present), "weights in other formats and other files are not asked for"


def test_huggingface_hub_reads_what_we_wrote(hub, cache, inspect):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    served(inspect("org/tiny"))
    path = huggingface_hub.snapshot_download("org/tiny", cache_dir=cache, local_files_only=True)
    assert path == str(snapshot(cache))
    file = huggingface_hub.try_to_load_from_cache("org/tiny", "config.json", cache_dir=cache)
    assert open(file, "rb").read() == hub.files["config.json"]


def test_a_cached_model_needs_no_network(hub, inspect):
    served(inspect("org/tiny"))
    count = len(hub.requests)
    served(inspect("org/tiny"))
    served(inspect("org/tiny", HF_HUB_OFFLINE="1"))
    served(inspect(f"org/tiny@{COMMIT}", HF_ENDPOINT="http://127.0.0.1:9"))
    assert len(hub.requests) == count


def with_tokenizer(hub):
    golden = pathlib.Path(__file__).resolve().parents[1] / "golden" / "models" / "llama-gqa-bf16"
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        hub.files[name] = (golden / name).read_bytes()


@pytest.mark.parametrize("arguments, stdin", [
    (("tokenize", "--model", "org/tiny"), "a b\n"),
    (("render",), '{"model":"org/tiny","messages":[{"role":"user","content":"a"}]}\n'),
    (("bench", "serve", "--model", "org/tiny", "--dataset-name", "random", "--random-input-len", "4", "--num-prompts", "1",
      "--base-url", "http://127.0.0.1:9"), ""),
    (("generate", "--model", "org/tiny", "--load_dummy", "--max-tokens", "1", "--device", "cpu"), "a\n"),
])
def test_what_needs_no_weights_asks_for_none(hub, cache, program, inspect, arguments, stdin):
    with_tokenizer(hub)
    result = program(*arguments, stdin=stdin)
    assert result.returncode == 0 or arguments[0] == "bench", result.stderr  # nobody is there to be measured
    assert "tokenizer.json" in hub.asked_files() and WEIGHTS not in hub.asked_files()
    count = len(hub.requests)
    again = program(*arguments, stdin=stdin, HF_HUB_OFFLINE="1")
    assert again.stdout == result.stdout and again.returncode == result.returncode and len(hub.requests) == count
    refused(inspect("org/tiny", HF_HUB_OFFLINE="1"), "missing: " + WEIGHTS)
    inspect("org/tiny")  # fetches the rest
    assert hub.gets(WEIGHTS) == [""] and hub.gets("tokenizer.json") == [""]


def test_offline_asks_nobody(hub, inspect):
    refused(inspect("org/tiny", HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE", "missing")
    assert hub.requests == []


def test_what_the_cache_has_is_not_asked_for_again(hub, cache, inspect):
    served(inspect("org/tiny"))
    (snapshot(cache) / "tokenizer.json").unlink()
    hub.requests.clear()
    served(inspect("org/tiny"))
    assert (snapshot(cache) / "tokenizer.json").exists()
    assert all(method == "HEAD" or "/api/" in path for _, method, path, _ in hub.requests)


def test_other_revisions_have_their_own_ref(hub, cache, inspect):
    served(inspect("org/tiny@refs/pr/1"))
    assert (repo_dir(cache) / "refs" / "refs" / "pr" / "1").read_text() == COMMIT
    refused(inspect("org/tiny@nowhere"), "no such revision", "nowhere")


def test_the_token_goes_to_the_hub_and_not_to_the_storage(hub, inspect):
    hub.token = "hf_secret"
    refused(inspect("org/tiny"), "gated", "HF_TOKEN")
    result = inspect("org/tiny", HF_TOKEN="hf_secret")
    served(result)
    assert "hf_secret" not in result.stderr
    assert not any("Authorization" in headers for server, _, _, headers in hub.requests if server == "storage")


@pytest.mark.parametrize("status, code, token, parts", [
    (401, "GatedRepo", "", ["gated", "HF_TOKEN"]),
    (403, "GatedRepo", "t", ["gated", "accept its terms"]),
    (403, "", "t", ["access denied"]),
    (401, "RepoNotFound", "", ["no such model", "HF_TOKEN"]),
    (401, "", "t", ["HF_TOKEN is not valid"]),
    (404, "RepoNotFound", "", ["no such model"]),
    (404, "", "", ["no such model"]),
    (418, "", "", ["HTTP status 418"]),
    (500, "", "", ["HTTP status 500"]),
    (429, "", "", ["HTTP status 429"]),
])
def test_refusals_of_the_hub_in_words(hub, cache, inspect, status, code, token, parts):
    hub.refuse = (status, code)
    refused(inspect("org/tiny", **({"HF_TOKEN": token} if token else {})), *parts)
    assert not cache.exists()
    assert len(hub.requests) == (5 if status in (500, 429) else 1)


def test_no_network(inspect):
    refused(inspect("org/tiny", HF_ENDPOINT="http://127.0.0.1:9"), "127.0.0.1", "onnect")
    refused(inspect("org/tiny", HF_ENDPOINT="http://no-such-host.invalid"), "no-such-host.invalid")


def test_renamed_models_are_followed(hub, inspect):
    hub.repo, hub.renamed_from = "org/new-name", "org/tiny"
    served(inspect("org/tiny"))


def test_cut_transfers_are_resumed(hub, cache, inspect):
    hub.drop_after[WEIGHTS] = [0, 500_000, 300_000, 1]
    served(inspect("org/tiny"))
    assert hub.gets(WEIGHTS) == ["", "", "bytes=500000-", "bytes=800000-", "bytes=800001-"]
    assert (snapshot(cache) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_overloaded_servers_are_asked_again(hub, inspect):
    hub.fail_first = {WEIGHTS: 2, "config.json": 1}
    served(inspect("org/tiny"))
    assert len(hub.gets(WEIGHTS)) == 3


def test_retry_after_is_honoured(hub, inspect):
    hub.refuse_first = [1, 429, {"Retry-After": "2"}]
    start = time.monotonic()
    served(inspect("org/tiny"))
    assert time.monotonic() - start >= 2


def test_a_transfer_that_never_ends_is_given_up_and_kept_for_later(hub, cache, inspect):
    hub.drop_after[WEIGHTS] = [600_000] + [0] * 20
    refused(inspect("org/tiny"), WEIGHTS)
    assert not (snapshot(cache) / WEIGHTS).exists()
    assert not (repo_dir(cache) / "refs" / "main").exists()
    hub.drop_after.clear()
    hub.requests.clear()
    served(inspect("org/tiny"))
    assert hub.gets(WEIGHTS) == ["bytes=600000-"]


@pytest.mark.parametrize("answer, ranges", [
    (False, ["", "bytes=500000-"]),  # 200 with everything, from the beginning
    (416, ["", "bytes=500000-", ""]),
    ("wrong", ["", "bytes=500000-", ""]),
])
def test_servers_that_cannot_resume(hub, cache, inspect, answer, ranges):
    hub.answer_range = answer
    hub.drop_after[WEIGHTS] = [500_000]
    served(inspect("org/tiny"))
    assert hub.gets(WEIGHTS) == ranges
    assert (snapshot(cache) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_wrong_checksum_leaves_nothing(hub, cache, inspect, name):
    hub.corrupt.add(name)
    refused(inspect("org/tiny"), name, "checksum mismatch", hub.true_etag(name))
    assert not (snapshot(cache) / name).exists()
    assert not (repo_dir(cache) / "blobs" / hub.true_etag(name)).exists()
    assert not list((repo_dir(cache) / "blobs").glob("*.incomplete"))
    hub.corrupt.clear()
    served(inspect("org/tiny"))


def test_a_spoilt_partial_file_is_started_over(hub, cache, inspect):
    blobs = repo_dir(cache) / "blobs"
    blobs.mkdir(parents=True)
    partial = blobs / f"{hub.true_etag(WEIGHTS)}.incomplete"
    for garbage in [b"x" * 1000, b"y" * len(hub.files[WEIGHTS]), b"z" * (len(hub.files[WEIGHTS]) + 5)]:
        partial.write_bytes(garbage)
        served(inspect("org/tiny"))
        assert (snapshot(cache) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
        (snapshot(cache) / WEIGHTS).unlink()
        (blobs / hub.true_etag(WEIGHTS)).unlink()


def test_more_bytes_than_announced(hub, cache, inspect):
    hub.send_length[WEIGHTS] = len(hub.files[WEIGHTS]) + 10
    refused(inspect("org/tiny"), WEIGHTS, "more than it announced")
    assert no_weights_kept(cache)


def test_fewer_bytes_than_announced(hub, cache, inspect):
    hub.send_length[WEIGHTS] = len(hub.files[WEIGHTS]) - 10
    refused(inspect("org/tiny"), WEIGHTS)
    assert not (snapshot(cache) / WEIGHTS).exists()


def test_an_announced_size_beyond_the_disk(hub, cache, inspect):
    hub.announce[WEIGHTS] = 2**60
    refused(inspect("org/tiny"), "not enough space", "expected")
    assert no_weights_kept(cache)


def test_a_full_disk_ends_in_one_line_and_resumes(hub, cache, inspect):
    def limit_file_size():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    refused(inspect("org/tiny", preexec_fn=limit_file_size), WEIGHTS, "incomplete", "File too large")
    assert not (snapshot(cache) / WEIGHTS).exists()
    hub.requests.clear()
    served(inspect("org/tiny"))
    assert hub.gets(WEIGHTS)[0].startswith("bytes=")


def test_a_cache_that_cannot_be_written(hub, cache, inspect):
    cache.write_text("a file")
    refused(inspect("org/tiny"), str(cache))


@pytest.mark.parametrize("siblings", [["../evil.json", "/etc/evil.json", "a/../../evil.json", "..", ".hidden.json", "", 7]])
def test_hostile_file_lists(hub, cache, inspect, siblings):
    hub.siblings = siblings + ["config.json", "tokenizer.json", WEIGHTS]
    served(inspect("org/tiny"))
    assert hub.asked_files() == {"config.json", "tokenizer.json", WEIGHTS}
    assert not list(cache.rglob("*evil*"))


def test_hostile_shard_names(hub, inspect):
    hub.files = tiny_model(sharded=True)
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"w": "../../x.safetensors"}}).encode()
    refused(inspect("org/tiny"), "model.safetensors.index.json", "not a file name inside the directory")


@pytest.mark.parametrize("etag", ["../../x", "", "a/b", ".hidden", "x" * 200, "a b"])
def test_hostile_etags(hub, inspect, etag):
    hub.etag["config.json"] = etag
    refused(inspect("org/tiny"), "config.json", "ETag")


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b"[]", b'{"sha": "../..", "siblings": []}', b'{"sha": 5, "siblings": 7}', b"\xff", b" "])
def test_servers_that_are_no_hub(hub, cache, inspect, body):
    hub.api_body = body
    refused(inspect("org/tiny"), "file list")
    assert not cache.exists()


def test_repositories_without_safetensors(hub, inspect):
    del hub.files[WEIGHTS]
    refused(inspect("org/tiny"), "no model.safetensors", "pickle")
    hub.files["tiny-q4.gguf"] = b"GGUF"
    refused(inspect("org/tiny"), "no model.safetensors", ".gguf")


def test_two_processes_download_once(hub, start):
    hub.stall = threading.Event()
    first = start("org/tiny")
    while not hub.gets(WEIGHTS):
        time.sleep(0.01)
    second = start("org/tiny")
    time.sleep(0.5)
    hub.stall.set()
    for process in (first, second):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len(hub.gets(WEIGHTS)) == 1


def test_a_killed_download_is_resumed(hub, cache, start, inspect):
    hub.stall = threading.Event()
    process = start("org/tiny")
    partial = repo_dir(cache) / "blobs" / f"{hub.true_etag(WEIGHTS)}.incomplete"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size > 500_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    hub.stall.set()
    kept = partial.stat().st_size
    hub.requests.clear()
    served(inspect("org/tiny"))
    assert hub.gets(WEIGHTS) == [f"bytes={kept}-"]
    assert hashlib.sha256((snapshot(cache) / WEIGHTS).read_bytes()).hexdigest() == hub.true_etag(WEIGHTS)


def test_no_progress_bar_without_a_terminal(inspect):
    result = inspect("org/tiny")
    served(result)
    assert "\r" not in result.stderr and "\x1b" not in result.stderr


def test_a_progress_bar_on_a_terminal(hub, start):
    hub.drop_after[WEIGHTS] = [1_500_000]
    ours, terminal = pty.openpty()
    process = start("org/tiny", stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0, shown
    assert b"%" in shown and WEIGHTS.encode() in shown and b"2.10 MB" in shown
    assert shown.endswith(b"\r\x1b[K"), "the bar is wiped when all is there"
