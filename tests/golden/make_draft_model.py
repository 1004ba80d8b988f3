#!/usr/bin/env python3
"""Makes models/deepseek-v3-mtp-bf16 of models/deepseek-v3-bf16: a tiny model with a layer that drafts (MTP) tokens,
some of which are right.

    python3 make_draft_model.py [--out tests/golden/models]

Attention and experts are scaled down, so that what follows depends on the newest token most of all, and on the
rest of the text enough that a block of another text would be noticed. The draft layer is a copy of the last layer;
its eh_proj takes the embedding of the newest token, and a little of the hidden state. There is no reference: it is
for tests that hold answers with drafts against answers without. Needs numpy; the output is committed.
"""
import argparse
import json
import pathlib
import shutil
import struct

import numpy as np

HERE = pathlib.Path(__file__).parent
SCALE = 0.15  # of what layers add to the residual stream
EMBEDDING_RMS = 0.48  # enorm makes it 1
HIDDEN_SHARE = 0.1  # of hnorm's output


def to_float(raw):
    return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)


def to_bf16(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def read(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], data[8 + size:][slice(*entry["data_offsets"])])
            for name, entry in header.items()}


def write(path, tensors):
    header, begin = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, raw) in sorted(tensors.items()):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + len(raw)]}
        begin += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(raw for _, (_, _, raw) in sorted(tensors.items())))


def draft_layer(tensors, hidden):
    """Named as in public checkpoints, with the copies of embedding and head that these carry."""
    layer = {name.replace("layers.1.", "layers.2."): tensor for name, tensor in tensors.items() if "layers.1." in name}
    ones = ("BF16", [hidden], to_bf16(np.ones(hidden)))
    eye = np.eye(hidden)
    layer["model.layers.2.enorm.weight"] = layer["model.layers.2.hnorm.weight"] = ones
    layer["model.layers.2.eh_proj.weight"] = (
        "BF16", [hidden, 2 * hidden], to_bf16(np.hstack([eye * EMBEDDING_RMS, eye * HIDDEN_SHARE])))
    layer["model.layers.2.shared_head.norm.weight"] = tensors["model.norm.weight"]
    layer["model.layers.2.shared_head.head.weight"] = tensors["lm_head.weight"]
    layer["model.layers.2.embed_tokens.weight"] = tensors["model.embed_tokens.weight"]
    return layer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "models")
    out = parser.parse_args().out / "deepseek-v3-mtp-bf16"
    source = HERE / "models" / "deepseek-v3-bf16"
    out.mkdir(parents=True, exist_ok=True)
    tensors = read(source / "model.safetensors")
    for name, (dtype, shape, raw) in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = (dtype, shape, to_bf16(to_float(raw) * SCALE))
    config = json.loads((source / "config.json").read_text())
    tensors |= draft_layer(tensors, config["hidden_size"])
    write(out / "model.safetensors", tensors)
    (out / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}, indent=1) + "\n")
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, out / name)


if __name__ == "__main__":
    main()
