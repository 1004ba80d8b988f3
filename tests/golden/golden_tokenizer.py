"""The golden models' tokenizer: byte-level BPE over a few English words, 256 bytes + merges + 4 special tokens.
Not trained on anything: the merges are spelled out by WORDS, so the file is the same on every machine."""
import json

SPECIAL = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
WORDS = [" the", " and", "ing", "tion", " of", " to", " in", "er"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
           r"\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_alphabet():
    """GPT-2's printable stand-ins: visible Latin-1 characters are themselves, the rest follow from 256 on."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in visible}
    for b in range(256):
        letters.setdefault(b, chr(256 + sum(1 for c in range(b) if c not in visible)))
    return [letters[b] for b in range(256)]


def merges():
    alphabet = byte_alphabet()
    pairs = []
    for word in WORDS:
        symbols = [alphabet[b] for b in word.encode()]
        while len(symbols) > 1:
            pair = (symbols[0], symbols[1])
            if pair not in pairs:
                pairs.append(pair)
            symbols[:2] = [symbols[0] + symbols[1]]
    return pairs


def tokens():
    return SPECIAL + byte_alphabet() + [a + b for a, b in merges()]


VOCAB_SIZE = len(tokens())


def tokenizer_json():
    special = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i, t in enumerate(SPECIAL)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": False, "vocab": {t: i for i, t in enumerate(tokens())},
                  "merges": [list(pair) for pair in merges()]}}


def save(path):
    (path / "tokenizer.json").write_text(json.dumps(tokenizer_json(), ensure_ascii=False) + "\n")
    (path / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1], "clean_up_tokenization_spaces": False, "model_max_length": 512,
        "chat_template": CHAT_TEMPLATE}, indent=1) + "\n")
