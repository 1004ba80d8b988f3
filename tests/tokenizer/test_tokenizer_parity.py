"""Ids and text equal to the `tokenizers` package on the tokenizer.json files of public models.

    ATOM_TOKENIZERS_DIR=... pytest tests/tokenizer          (a directory with one folder per tokenizer;
                                                             default: ../shared/tokenizers, unpacked or tar.xz)
ATOM_TOKENIZER_LINES sets the number of lines per tokenizer (default 20000), ATOM_TOKENIZER_SEED the seed,
ATOM_TOKENIZE_TOOL the program (default build/tests/tokenize_tool).
"""
import base64
import json
import os
import pathlib
import random
import subprocess
import tarfile

import pytest

import gguf_writer
import text_lines

tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers package is not installed")

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("ATOM_TOKENIZE_TOOL", ROOT / "build" / "tests" / "tokenize_tool"))
LINES = int(os.environ.get("ATOM_TOKENIZER_LINES", "20000"))
SEED = int(os.environ.get("ATOM_TOKENIZER_SEED", "1"))
NAMES = ["deepseek_v3", "gptoss", "llama2", "llama3", "llama3_1", "mistral_nemo", "qwen3"]


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    if not TOOL.exists():
        pytest.skip(f"{TOOL} is not built (ninja tokenize_tool)")
    if "ATOM_TOKENIZERS_DIR" in os.environ:
        return pathlib.Path(os.environ["ATOM_TOKENIZERS_DIR"])
    shared = pathlib.Path(os.environ.get("ATOM_SHARED_DIR", ROOT.parent / "shared")) / "tokenizers"
    archive = shared / "tokenizers.tar.xz"
    if not archive.exists():
        pytest.skip(f"no tokenizers: set ATOM_TOKENIZERS_DIR, or provide {archive}")
    target = tmp_path_factory.mktemp("tokenizers")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return next(target.rglob("qwen3")).parent


@pytest.fixture(scope="session", params=NAMES)
def model(request, directory):
    folder = directory / request.param
    if not (folder / "tokenizer.json").exists():
        pytest.skip(f"{folder} is absent")
    return folder, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def run_tool(folder, mode, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    done = subprocess.run([str(TOOL), str(folder), mode], input=text, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def first_difference(inputs, ours, theirs):
    assert len(ours) == len(theirs)
    differing = [i for i in range(len(ours)) if ours[i] != theirs[i]]
    if not differing:
        return None
    i = min(differing, key=lambda k: len(inputs[k]))
    return f"{len(differing)} of {len(ours)} differ; shortest: {inputs[i]!r}\n ours   {ours[i]}\n theirs {theirs[i]}"


def specials_of(tokenizer):
    return [token.content for token in tokenizer.get_added_tokens_decoder().values()][:300]


def test_encode(model):
    folder, tokenizer = model
    lines = list(text_lines.lines(SEED, LINES, specials_of(tokenizer)))
    ours = run_tool(folder, "encode", lines)
    theirs = [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)]
    assert first_difference(lines, ours, theirs) is None


# tokenizer.ggml.model and .pre that converters write for these models.
GGUF_NAMES = {"deepseek_v3": ("gpt2", "deepseek-v3"), "gptoss": ("gpt2", "gpt-4o"), "llama2": ("llama", "default"),
              "llama3": ("gpt2", "llama-bpe"), "llama3_1": ("gpt2", "llama-bpe"), "mistral_nemo": ("gpt2", "tekken"),
              "qwen3": ("gpt2", "qwen2")}


def test_gguf_has_the_ids_of_tokenizer_json(model, tmp_path):
    folder, tokenizer = model
    path = tmp_path / "vocabulary.gguf"
    gguf_writer.write(path, folder / "tokenizer.json", *GGUF_NAMES[folder.name])
    lines = list(text_lines.lines(SEED + 3, LINES // 4, specials_of(tokenizer)))
    encodings = [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)]
    assert first_difference(lines, run_tool(path, "encode", lines), encodings) is None
    texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in encodings]
    assert first_difference(encodings, run_tool(path, "decode", encodings), texts) is None


KIMI_PATTERN = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def test_tiktoken(directory, tmp_path):
    """The ranks of a public vocabulary as tiktoken.model with Kimi's pattern, against the same in the package."""
    source = directory / "llama3" / "tokenizer.json"
    if not source.exists():
        pytest.skip(f"{source} is absent")
    data = json.loads(source.read_text())
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": KIMI_PATTERN}
    ranks = sorted(data["model"]["vocab"].items(), key=lambda item: item[1])
    data["added_tokens"] = [dict(data["added_tokens"][0], id=len(ranks), content="[BOS]"),
                            dict(data["added_tokens"][0], id=len(ranks) + 1, content="<|im_end|>")]
    reference = tokenizers.Tokenizer.from_str(json.dumps(data))
    to_byte = {c: b for b, c in alphabet().items()}
    rows = [base64.b64encode(bytes(to_byte[c] for c in text)).decode() + f" {rank}" for text, rank in ranks]
    (tmp_path / "tiktoken.model").write_text("\n".join(rows) + "\n")
    decoder = {str(len(ranks)): {"content": "[BOS]", "special": True},
               str(len(ranks) + 1): {"content": "<|im_end|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    lines = list(text_lines.lines(SEED + 4, LINES, ["[BOS]", "<|im_end|>"]))
    encodings = [e.ids for e in reference.encode_batch(lines, add_special_tokens=False)]
    assert first_difference(lines, run_tool(tmp_path, "encode", lines), encodings) is None
    texts = [reference.decode(ids, skip_special_tokens=True) for ids in encodings]
    assert first_difference(encodings, run_tool(tmp_path, "decode_skip", encodings), texts) is None


def alphabet():
    """Byte -> character of the GPT-2 byte alphabet."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def test_encode_special(model):
    folder, tokenizer = model
    lines = ["", " ", *text_lines.lines(SEED + 1, 500, specials_of(tokenizer))]
    theirs = [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=True)]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    bos = config.get("bos_token")
    bos = bos["content"] if isinstance(bos, dict) else bos
    if config.get("add_bos_token") and bos:
        bos_id = tokenizer.token_to_id(bos)
        has_bos = tokenizer.encode("", add_special_tokens=True).ids[:1] == [bos_id]
        theirs = theirs if has_bos else [[bos_id] + ids for ids in theirs]
    assert first_difference(lines, run_tool(folder, "encode_special", lines), theirs) is None


def random_ids(tokenizer, rng, count):
    size = tokenizer.get_vocab_size() + 3
    byte_like = [i for i in range(size) if len(tokenizer.id_to_token(i) or "") == 1
                 or (tokenizer.id_to_token(i) or "").startswith("<0x")] or [0]
    added = list(tokenizer.get_added_tokens_decoder())
    for _ in range(count):
        yield [rng.choice((rng.randrange(size), rng.choice(byte_like), rng.choice(byte_like), rng.choice(added)))
               for _ in range(rng.randint(0, 30))]


@pytest.mark.parametrize("skip", [False, True])
def test_decode(model, skip):
    folder, tokenizer = model
    lines = list(text_lines.lines(SEED + 2, max(LINES // 4, 1), specials_of(tokenizer)))
    rows = [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)]
    rows += random_ids(tokenizer, random.Random(SEED), max(LINES // 4, 1))
    theirs = [tokenizer.decode(row, skip_special_tokens=skip) for row in rows]
    suffix = "_skip" if skip else ""
    assert first_difference(rows, run_tool(folder, "decode" + suffix, rows), theirs) is None
    assert first_difference(rows, run_tool(folder, "stream" + suffix, rows), theirs) is None
