"""GGUF side of the golden models: names, Q/K row order, metadata and block quantisation (the `gguf` package
has no K-quant encoder; quality does not matter here, since the reference uses the decoded blocks)."""
import re

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

import golden_tokenizer

NAMES = {
    r"model\.embed_tokens\.weight": "token_embd.weight",
    r"model\.norm\.weight": "output_norm.weight",
    r"lm_head\.weight": "output.weight",
    r"model\.layers\.(\d+)\.input_layernorm\.weight": r"blk.\1.attn_norm.weight",
    r"model\.layers\.(\d+)\.post_attention_layernorm\.weight": r"blk.\1.ffn_norm.weight",
    r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)": r"blk.\1.attn_\2.\3",
    r"model\.layers\.(\d+)\.self_attn\.o_proj\.weight": r"blk.\1.attn_output.weight",
    r"model\.layers\.(\d+)\.self_attn\.([qk])_norm\.weight": r"blk.\1.attn_\2_norm.weight",
    r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight": r"blk.\1.ffn_\2.weight",
}


def gguf_name(name):
    for pattern, replacement in NAMES.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise KeyError(name)


def storage_type(name, storage):
    if "norm" in name or name.endswith("bias"):
        return T.F32
    if storage in ("F16", "BF16", "Q8_0"):
        return T[storage]
    if storage in ("Q4_0", "Q4_1"):
        return T.Q8_0 if name in ("lm_head.weight", "model.embed_tokens.weight") else T[storage]
    six_bits = ("lm_head.weight", "model.embed_tokens.weight")
    return T.Q6_K if name in six_bits or "v_proj" in name or "down_proj" in name else T.Q4_K


def rotary_permutation(rows, heads):
    """Order of the rows of Q or K in a llama GGUF: stored row 2i is row i of the head, 2i + 1 is i + d/2."""
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)


def permutation(name, config):
    if config["model_type"] != "llama" or not re.search(r"self_attn\.[qk]_proj", name):
        return None
    heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
    return rotary_permutation(heads * config["head_dim"], heads)


def half_bytes(x):
    return x.astype(np.float16).view(np.uint8)


def quantise_q4_k(x):
    blocks = x.reshape(-1, 8, 32).astype(np.float32)
    low = np.minimum(blocks.min(-1), 0)
    step = np.maximum((blocks.max(-1) - low) / 15, 1e-8)
    d = (step.max(-1, keepdims=True) / 63).astype(np.float16).astype(np.float32)
    dmin = np.maximum((-low).max(-1, keepdims=True) / 63, 1e-7).astype(np.float16).astype(np.float32)
    scale = np.clip(np.round(step / d), 1, 63)
    offset = np.clip(np.round(-low / dmin), 0, 63)
    q = np.round((blocks + (dmin * offset)[..., None]) / (d * scale)[..., None])
    q = np.clip(q, 0, 15).astype(np.uint8)
    sc, m = scale.astype(np.uint8), offset.astype(np.uint8)
    packed = np.concatenate([sc[:, :4] | (sc[:, 4:] >> 4 << 6), m[:, :4] | (m[:, 4:] >> 4 << 6),
                             (sc[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)], axis=1)
    nibbles = (q[:, 0::2] | (q[:, 1::2] << 4)).reshape(len(blocks), 128)
    return np.concatenate([half_bytes(d), half_bytes(dmin), packed, nibbles], axis=1)


def quantise_q6_k(x):
    blocks = x.reshape(-1, 16, 16).astype(np.float32)
    step = np.maximum(np.abs(blocks).max(-1) / 31, 1e-8)
    d = (step.max(-1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    scale = np.clip(np.round(step / d), 1, 127)
    q = np.clip(np.round(blocks / (d * scale)[..., None]), -32, 31).astype(np.int8) + 32
    q = q.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.stack([(q[:, :, 0] & 15) | ((q[:, :, 2] & 15) << 4),
                    (q[:, :, 1] & 15) | ((q[:, :, 3] & 15) << 4)], axis=2).reshape(len(blocks), 128)
    high = q[:, :, 0] >> 4 | (q[:, :, 1] >> 4 << 2) | (q[:, :, 2] >> 4 << 4) | (q[:, :, 3] >> 4 << 6)
    return np.concatenate([low, high.reshape(len(blocks), 64), scale.astype(np.int8).view(np.uint8),
                           half_bytes(d)], axis=1)


def encode(x, kind):
    if kind in (T.Q4_K, T.Q6_K):
        blocks = quantise_q4_k(x) if kind == T.Q4_K else quantise_q6_k(x)
        return np.ascontiguousarray(blocks.reshape(x.shape[0], -1))
    return gguf.quants.quantize(x, kind)


def quantise(state, storage, config):
    """name -> (GGUF type, stored array, row permutation)"""
    blocks = {}
    for name, tensor in sorted(state.items()):
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        value = tensor.detach().numpy().astype(np.float32)
        order = permutation(name, config)
        if order is not None:
            value = value[order]
        kind = storage_type(name, storage)
        data = encode(value, kind)
        if kind in (T.Q4_K, T.Q6_K):
            error = np.abs(gguf.quants.dequantize(data, kind) - value).max() / np.abs(value).max()
            assert error < (0.1 if kind == T.Q4_K else 0.03), (name, error)
        blocks[name] = (kind, data, order)
    return blocks


def decode(blocks):
    result = {}
    for name, (kind, data, order) in blocks.items():
        value = np.array(gguf.quants.dequantize(data, kind), dtype=np.float32)
        if order is not None:
            value = value[np.argsort(order)]
        result[name] = value
    return result


def rope_divisors(config):
    """rope_freqs.weight: what llama3 scaling divides each frequency by."""
    scaling, half = config["rope_scaling"], config["head_dim"] // 2
    inv_freq = config["rope_theta"] ** (-np.arange(half) / half)
    wavelength = 2 * np.pi / inv_freq
    original = scaling["original_max_position_embeddings"]
    low, high, factor = (scaling[k] for k in ("low_freq_factor", "high_freq_factor", "factor"))
    smooth = (original / wavelength - low) / (high - low)
    blended = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wavelength < original / high, 1.0,
                    np.where(wavelength > original / low, factor, blended)).astype(np.float32)


def save(path, blocks, config):
    path.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(path, config["model_type"])
    writer.add_name(path.stem)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    tokens = golden_tokenizer.tokens()
    special = len(golden_tokenizer.SPECIAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe" if config["model_type"] == "llama" else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * special +
                           [gguf.TokenType.NORMAL] * (len(tokens) - special))
    writer.add_token_merges([f"{a} {b}" for a, b in golden_tokenizer.merges()])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(golden_tokenizer.CHAT_TEMPLATE)
    if config.get("rope_scaling"):
        writer.add_tensor("rope_freqs.weight", rope_divisors(config))
    for name, (kind, data, _) in blocks.items():
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
