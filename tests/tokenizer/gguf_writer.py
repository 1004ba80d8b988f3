"""Writes the tokenizer of a tokenizer.json as a GGUF file without tensors, as converters do."""
import json
import struct

STRING, ARRAY, UINT32, INT32, FLOAT32, BOOL = 8, 9, 4, 5, 6, 7
PACK = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}


def packed(kind, value):
    if kind == STRING:
        data = value.encode()
        return struct.pack("<Q", len(data)) + data
    return struct.pack(PACK[kind], value)


def entry(key, kind, value, item=None):
    head = packed(STRING, key) + struct.pack("<I", kind)
    if kind == ARRAY:
        return head + struct.pack("<IQ", item, len(value)) + b"".join(packed(item, v) for v in value)
    return head + packed(kind, value)


def scores(data, size):
    """The order of SentencePiece scores, read back from the merges that were made from them."""
    out = [-1e6] * size
    for rank, merge in enumerate(data["model"]["merges"]):
        token = data["model"]["vocab"]["".join(merge.split(" ") if isinstance(merge, str) else merge)]
        if out[token] == -1e6:
            out[token] = float(-rank)
    return out


def write(path, tokenizer_json, model, pre):
    """model: "gpt2" (merges) or "llama" (scores)."""
    data = json.loads(tokenizer_json.read_text())
    vocab = data["model"]["vocab"]
    added = {t["id"]: t for t in data["added_tokens"]}
    size = max([*vocab.values(), *added]) + 1
    tokens, types = [f"[PAD{i}]" for i in range(size)], [5] * size
    for text, i in vocab.items():
        tokens[i], types[i] = text, 1
        if model == "llama" and len(text) == 6 and text.startswith("<0x"):
            types[i] = 6
    for i, token in added.items():
        tokens[i], types[i] = token["content"], 3 if token["special"] else 4
    entries = [
        entry("general.architecture", STRING, "llama"),
        entry("tokenizer.ggml.model", STRING, model),
        entry("tokenizer.ggml.pre", STRING, pre),
        entry("tokenizer.ggml.tokens", ARRAY, tokens, STRING),
        entry("tokenizer.ggml.token_type", ARRAY, types, INT32),
        entry("tokenizer.ggml.add_bos_token", BOOL, False),
    ]
    if model == "llama":
        entries.append(entry("tokenizer.ggml.scores", ARRAY, scores(data, size), FLOAT32))
        entries.append(entry("tokenizer.ggml.unknown_token_id", UINT32, vocab["<unk>"]))
    else:
        merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
        entries.append(entry("tokenizer.ggml.merges", ARRAY, merges, STRING))
    with open(path, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries) + b"\0" * 64)
