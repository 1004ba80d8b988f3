"""--load_dummy: a configuration and a tokenizer are enough, whatever the weights on disk."""
import json
import pathlib
import shutil

import pytest

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "models" / "qwen3-untied-bf16"


@pytest.fixture
def no_weights(tmp_path):
    for name in GOLDEN.iterdir():
        if name.suffix == ".json" and "index" not in name.name:
            shutil.copy(name, tmp_path)
    return tmp_path


def edit(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("kind", ["empty", "zero", "xavier"])
def test_runs_without_weight_files(atom, no_weights, kind):
    result = atom("generate", "--model", str(no_weights), "--load_dummy", kind, "--prompt", "Hello",
                  "--max-tokens", "4", "--ignore-eos", "--json")
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["token_ids"]) == 4


def test_without_the_flag_missing_weights_are_an_error(atom, no_weights):
    result = atom("generate", "--model", str(no_weights), "--prompt", "Hello")
    assert result.returncode == 1
    assert "no model here" in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_head_too_wide_for_the_kernels_is_refused(atom, no_weights):
    edit(no_weights, head_dim=512)
    result = atom("generate", "--model", str(no_weights), "--load_dummy", "--prompt", "Hello")
    assert result.returncode == 1
    assert "head_dim 512 is not supported (at most 256)" in result.stderr


def test_a_context_beyond_the_model_is_refused(atom, no_weights):
    result = atom("generate", "--model", str(no_weights), "--load_dummy", "--max-model-len", "9999999",
                  "--prompt", "Hello")
    assert result.returncode != 0
    assert "--max-model-len: 9999999" in result.stderr
