"""Hub names that pages use, as a cache of tiny models, so that their commands need neither a network nor other names."""
import json
import os
import pathlib

from shell import ROOT

GOLDEN = ROOT / "tests" / "golden" / "models"
# Names that pages use, and the tiny models of the same family that stand for them.
HUB = {
    "Qwen/Qwen3-0.6B": GOLDEN / "qwen3-untied-bf16",
    "meta-llama/Meta-Llama-3-8B": GOLDEN / "llama-gqa-bf16",
    "deepseek-ai/DeepSeek-R1": GOLDEN / "deepseek-v3-bf16",
}
CONTEXT = 4096  # tokens; the tiny models' own are shorter than the prompts of a benchmark


def shared_folder():
    """../shared, or ATOM_SHARED_DIR: what belongs to others and is not in this repository."""
    return pathlib.Path(os.environ.get("ATOM_SHARED_DIR", ROOT.parent / "shared"))


def make_hub(folder, models):
    """A cache of hub models in the form of huggingface_hub."""
    for name, source in models.items():
        repository = folder / ("models--" + name.replace("/", "--"))
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        for file in source.iterdir():
            if file.name != "config.json":
                os.symlink(file, snapshot / file.name)
        config = json.loads((source / "config.json").read_text())
        config["max_position_embeddings"] = max(CONTEXT, config["max_position_embeddings"])
        (snapshot / "config.json").write_text(json.dumps(config))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
    return folder
