"""atom inspect and atom tokenize on the demo model and on broken ones."""
import json

import pytest


def test_inspect_names_architecture_formats_sizes_and_plan(atom, demo_model):
    text = atom("inspect", demo_model).stdout
    for part in ["LlamaForCausalLM", "GGUF", "Q4_1", "Q8_0", "8192 tokens", "memory plan: "]:
        assert part in text, text


def test_inspect_json(atom, demo_model):
    report = json.loads(atom("inspect", "--model", demo_model, "--json", "--max-model-len", "1024").stdout)
    assert report["architecture"] == "LlamaForCausalLM"
    assert report["config"]["num_hidden_layers"] == 30
    plan = report["memory_plan"]
    assert plan["max_model_len"] == 1024
    assert plan["kv_cache"] == plan["num_blocks"] * plan["bytes_per_block"]


def test_the_plan_follows_the_flags(atom, demo_model):
    def plan(*flags):
        return json.loads(atom("inspect", demo_model, "--json", *flags).stdout)["memory_plan"]

    small = plan("--kv-cache-memory-gb", "0.25")
    assert small["kv_cache"] <= 2**28
    fp8 = plan("--kv-cache-memory-gb", "0.25", "--kv_cache_dtype", "fp8")
    assert fp8["num_blocks"] > 1.5 * small["num_blocks"]


@pytest.mark.parametrize("command", ["inspect", "tokenize", "generate", "chat", "serve"])
def test_a_model_that_is_not_there(atom, command, tmp_path):
    flags = ["--server-port", "0"] if command == "serve" else []
    result = atom(command, "--model", str(tmp_path / "no such model"), *flags, stdin="hello\n")
    assert result.returncode == 1, result.stderr
    assert "no such model" in result.stderr
    assert len([line for line in result.stderr.splitlines() if not line.startswith(("INFO", "WARNING"))]) == 1


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, b"no gguf at all"])
def test_a_broken_file_is_refused_in_one_line(atom, tmp_path, content):
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    for command in ["inspect", "tokenize", "generate", "chat"]:
        result = atom(command, "--model", str(file), stdin="x\n")
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1 and "broken.gguf" in result.stderr


def test_tokenize_and_back(atom, demo_model):
    lines = ["Hello, world!", "  two  spaces", "Größe 你好 👩‍👩‍👧", "", "<|im_start|>user"]
    encoded = atom("tokenize", "--model", demo_model, stdin="\n".join(lines) + "\n")
    assert encoded.returncode == 0, encoded.stderr
    ids = [json.loads(line) for line in encoded.stdout.splitlines()]
    assert len(ids) == len(lines)
    assert ids[4][0] == 1, "special-token text becomes the special token"
    for flags in [[], ["--stream"]]:
        decoded = atom("tokenize", demo_model, "--decode", *flags, stdin=encoded.stdout)
        assert decoded.stdout == "\n".join(lines) + "\n"


def test_tokenize_names_the_line_of_bad_ids(atom, demo_model):
    result = atom("tokenize", demo_model, "--decode", stdin="[1,2]\n[1,x]\n")
    assert result.returncode == 1
    assert "2" in result.stderr and len(result.stderr.splitlines()) == 1
