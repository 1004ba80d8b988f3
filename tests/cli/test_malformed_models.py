"""Damaged checkpoints against the whole program: one line that names the culprit, exit status 1, little memory.

Each case starts from a good golden model. The parsers' own tests go into every field; this suite holds the whole
way, accounting for every tensor included.
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("ATOM_BINARY", str(ROOT / "build" / "bin" / "atom"))
MODELS = ROOT / "tests" / "golden" / "models"
SHARDED = "llama31-rope-sharded-bf16"
GGUF = "gguf-llama-q4_0"
MAX_RSS_KIB = 300_000


@pytest.fixture
def model(tmp_path):
    """model("name") -> a private copy of the golden model."""

    def copy(name):
        return pathlib.Path(shutil.copytree(MODELS / name, tmp_path / name))

    return copy


def run(path, *flags):
    process = subprocess.Popen([BINARY, "generate", "--model", str(path), "--prompt", "a", "--max-tokens", "1", "--device", "cpu",
                                "--kv-cache-memory-gb", "0.01", *flags], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, output, errors, usage.ru_maxrss


def refused(path, *parts):
    status, output, errors, rss = run(path)
    assert status == 1, (status, errors)
    assert output == ""
    lines = [line for line in errors.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert len(lines) == 1 and lines[0].startswith("atom: "), errors
    for part in parts:
        assert part in lines[0], lines[0]
    assert rss < MAX_RSS_KIB


def edit_config(path, **values):
    config = json.loads((path / "config.json").read_text())
    for key, value in values.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    (path / "config.json").write_text(json.dumps(config))


def shard_of(path, tensor):
    index = json.loads((path / "model.safetensors.index.json").read_text())
    return path / index["weight_map"][tensor]


def edit_header(file, change):
    """change(header) edits the JSON header of a safetensors file in place; data stay as they are."""
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size:])


@pytest.mark.parametrize("name", [SHARDED, GGUF])
def test_the_models_we_damage_are_good(model, name):
    status, _, errors, _ = run(model(name))
    assert status == 0, errors


@pytest.mark.parametrize("key, value, parts", [
    ("num_hidden_layers", 0, ["config.json", "num_hidden_layers", "found 0"]),
    ("num_hidden_layers", -2, ["config.json", "num_hidden_layers", "found -2"]),
    ("num_hidden_layers", 10**9, ["config.json", "num_hidden_layers", "1000000000"]),
    ("num_hidden_layers", 1000, ["missing tensors", "model.layers."]),
    ("num_hidden_layers", 1, ["model.layers.1."]),
    ("intermediate_size", 4096, ["model.layers.0.mlp.gate_proj.weight", "4096"]),
    ("intermediate_size", 2**62, ["config.json", "intermediate_size"]),
    ("vocab_size", 77, ["config.json", "vocab_size", "model.embed_tokens.weight", "found 77"]),
    ("num_attention_heads", 0, ["config.json", "num_attention_heads", "found 0"]),
    ("rope_theta", float("nan"), ["config.json", "rope_theta", "NaN"]),
    ("rope_theta", 0, ["config.json", "rope_theta", "found 0"]),
    ("rope_theta", -5, ["config.json", "rope_theta", "found -5"]),
    ("rope_theta", "1e6", ["config.json", "rope_theta", '"1e6"']),
    ("quantization_config", {"quant_method": "magic"}, ["config.json", "quant_method", '"magic"', "GGUF"]),
    ("architectures", ["BloomForCausalLM"], ["config.json", "BloomForCausalLM", "LlamaForCausalLM"]),
    ("attention_bias", True, ["missing tensors", "model.layers.0.self_attn.q_proj.bias"]),
])
def test_configs(model, key, value, parts):
    path = model(SHARDED)
    edit_config(path, **{key: value})
    refused(path, *parts)


def warned(path, *parts):
    """Served all the same, and every one of `parts` is said in one line of warning."""
    status, output, errors, _ = run(path)
    assert status == 0 and output, errors
    assert any(line.startswith("WARNING") and all(part in line for part in parts) for line in errors.splitlines()), errors


def edit_tensor(file, name, content):
    data = bytearray(file.read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    begin = 8 + size + json.loads(data[8:8 + size])[name]["data_offsets"][0]
    data[begin:begin + len(content)] = content
    file.write_bytes(data)


def test_a_tied_model_with_another_head(model):
    """The configuration decides, as in transformers; what it leaves unused is said. A copy that is one is no news."""
    path = model("qwen3-tied-padded-f32")
    assert "lm_head" not in run(path)[2]
    edit_tensor(path / "model.safetensors", "lm_head.weight", b"\0\0\x80\x3f")
    warned(path, "lm_head.weight", "tie_word_embeddings")
    path = model("llama-tied-f16")
    edit_config(path, tie_word_embeddings=False)
    refused(path, "missing tensor: lm_head.weight")


def test_a_tokenizer_with_more_tokens_than_the_model(model):
    path = model(SHARDED)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 5000, "content": "<far>"})
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    warned(path, "more tokens (5001)", "(277)")
    process = subprocess.run([BINARY, "generate", "--model", str(path), "--prompt", "a <far>", "--device", "cpu"], capture_output=True,
                             text=True, check=False)
    assert process.returncode == 1 and "token id 5000 is outside the vocabulary of 277" in process.stderr


def test_weights_that_are_no_numbers_fail_the_request(model):
    path = model("llama-gqa-bf16")
    edit_tensor(path / "model.safetensors", "model.layers.0.mlp.down_proj.weight", b"\xc0\x7f")
    refused(path, "no finite logits")


def test_a_template_that_is_none_is_said_and_the_rest_works(model):
    path = model("llama-gqa-bf16")
    config = json.loads((path / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% if x %}\n{{ a }}"
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    warned(path, "chat template, line 2", "--chat-template")


def test_a_shard_cut_short(model):
    path = model(SHARDED)
    file = shard_of(path, "model.norm.weight")
    file.write_bytes(file.read_bytes()[:-10])
    refused(path, file.name, "beyond the end of the file")


def test_a_shard_that_is_not_there(model):
    path = model(SHARDED)
    file = shard_of(path, "model.norm.weight")
    file.unlink()
    refused(path, file.name, "no such file")


def test_a_missing_and_an_unknown_tensor(model):
    path = model(SHARDED)
    file = shard_of(path, "model.norm.weight")

    def rename(header):
        header["model.nrom.weight"] = header.pop("model.norm.weight")

    edit_header(file, rename)
    refused(path, file.name, "model.nrom.weight", "does not list it")
    index = path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model.norm.weight", "model.nrom.weight"))
    refused(path, "model.norm.weight")


def test_a_wrong_shape_names_both(model):
    path = model(SHARDED)
    file = shard_of(path, "model.layers.0.self_attn.q_proj.weight")
    shapes = []

    def transpose(header):
        shape = header["model.layers.0.self_attn.q_proj.weight"]["shape"]
        shapes.append(list(shape))
        shape[0], shape[1] = shape[0] * 2, shape[1] // 2
        shapes.append(list(shape))

    edit_header(file, transpose)
    refused(path, file.name, "model.layers.0.self_attn.q_proj.weight", *map(str, shapes))


@pytest.mark.parametrize("offsets", [[0, 8], [8, 0], [0, 2**40], [-8, 0]])
def test_wrong_offsets(model, offsets):
    path = model(SHARDED)
    file = shard_of(path, "model.norm.weight")
    edit_header(file, lambda header: header["model.norm.weight"].update(data_offsets=offsets))
    refused(path, file.name, "tensor \"model.norm.weight\"", "data_offsets")


@pytest.mark.parametrize("length", [0, 2**62, 2**64 - 1, 10**8, 5])
def test_wrong_header_lengths(model, length):
    path = model(SHARDED)
    file = shard_of(path, "model.norm.weight")
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    refused(path, file.name, "header")


def test_an_unknown_dtype(model):
    path = model(SHARDED)
    file = shard_of(path, "model.norm.weight")
    edit_header(file, lambda header: header["model.norm.weight"].update(dtype="F7"))
    refused(path, file.name, "model.norm.weight", "F7")


def gguf_file(path):
    return next(path.glob("*.gguf"))


@pytest.mark.parametrize("damage, parts", [
    (lambda data: b"GGML" + data[4:], ["magic"]),
    (lambda data: data[:-100], ["beyond the end of the file"]),
    (lambda data: data[:50], []),
    (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], ["tensor count"]),
    (lambda data: data[:24] + struct.pack("<Q", 2**60) + data[32:], ["string"]),
    (lambda data: data.replace(b"output_norm.weight", b"output_nrom.weight"), ["output_nrom.weight"]),
    (lambda data: data.replace(b"general.architecture", b"general.architectura"), ["general.architecture"]),
])
def test_gguf_files(model, damage, parts):
    path = model(GGUF)
    file = gguf_file(path)
    file.write_bytes(damage(file.read_bytes()))
    if parts == ["output_nrom.weight"]:
        refused(path, "model.norm.weight")  # what is missing comes first
    else:
        refused(path, file.name, *parts)


def test_gguf_tensor_types_and_blocks(model):
    path = model(GGUF)
    file = gguf_file(path)
    data = file.read_bytes()
    name = b"blk.0.ffn_down.weight"
    at = data.index(name) + len(name)
    rank = struct.unpack_from("<I", data, at)[0]
    type_at = at + 4 + 8 * rank
    file.write_bytes(data[:type_at] + struct.pack("<I", 11) + data[type_at + 4:])
    refused(path, file.name, "blk.0.ffn_down.weight", "Q3_K", "supported: F32")
    file.write_bytes(data[:at + 4] + struct.pack("<Q", 33) + data[at + 12:])
    refused(path, file.name, "blk.0.ffn_down.weight", "rows of 33", "multiple of 32")
