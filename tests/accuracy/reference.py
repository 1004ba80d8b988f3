"""The log-probabilities that a Llama checkpoint truly gives, computed with numpy from its file alone: nothing of ATOM, of its
tokenizer or of its server is used. It is the oracle of test_harness.py, for short texts and small models: everything is float32,
but keys and values, which the server keeps in bfloat16, are rounded to that. To add a family: its tensors in `_layer`."""
import json
import re
from typing import NamedTuple

import gguf
import numpy as np
from safetensors.numpy import load_file

GGUF_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj"}


def as_bfloat16(x):
    """float32, rounded to what bfloat16 holds, to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


class Score(NamedTuple):
    logprob: float
    greedy: bool
    margin: float  # in logits; where it is small, rounding may decide `greedy`


class Llama:
    def __init__(self, weights, layers, heads, kv_heads, theta, epsilon):
        self.weights, self.layers, self.heads, self.kv_heads = weights, layers, heads, kv_heads
        self.theta, self.epsilon = theta, epsilon

    @classmethod
    def of_directory(cls, path):
        config = json.loads((path / "config.json").read_text())
        weights = {name: array.astype(np.float32) for name, array in load_file(path / "model.safetensors").items()}
        return cls(weights, config["num_hidden_layers"], config["num_attention_heads"], config["num_key_value_heads"],
                   config["rope_theta"], config["rms_norm_eps"])

    @classmethod
    def of_gguf(cls, path):
        reader = gguf.GGUFReader(path)

        def field(name):
            return reader.fields["llama." + name].contents()
        heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
        weights = {}
        for tensor in reader.tensors:
            layer, name, kind = re.fullmatch(r"(blk\.\d+\.)?(\w+)\.(weight|bias)", tensor.name).groups()
            array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            if name in ("attn_q", "attn_k"):  # stored with the two halves of a rotated head interleaved
                count = heads if name == "attn_q" else kv_heads
                array = array.reshape(count, -1, 2, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
            prefix = layer.replace("blk.", "model.layers.") if layer else ""
            weights[f"{prefix}{GGUF_NAMES[name]}.{kind}"] = array
        return cls(weights, field("block_count"), heads, kv_heads, field("rope.freq_base"),
                   field("attention.layer_norm_rms_epsilon"))

    def _norm(self, x, name):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.epsilon) * self.weights[name + ".weight"]

    def _linear(self, x, name):
        y = x @ self.weights[name + ".weight"].T
        return y + self.weights[name + ".bias"] if name + ".bias" in self.weights else y

    def _rotate(self, x):
        """x [num_heads, num_tokens, head_dim]"""
        half = x.shape[-1] // 2
        angles = np.outer(np.arange(x.shape[1]), self.theta ** (-np.arange(half) / half))
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def _attention(self, q, k, v):
        """q [num_tokens, num_heads * head_dim], k and v [num_tokens, num_kv_heads * head_dim] of one text."""
        def heads_of(y, count):  # [num_tokens, count * head_dim] -> [count, num_tokens, head_dim]
            return y.reshape(len(y), count, -1).swapaxes(0, 1)
        q, k, v = self._rotate(heads_of(q, self.heads)), self._rotate(heads_of(k, self.kv_heads)), heads_of(v, self.kv_heads)
        k, v = (np.repeat(as_bfloat16(y), self.heads // self.kv_heads, 0) for y in (k, v))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]) + np.triu(np.full((q.shape[1], q.shape[1]), -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out = (weights / weights.sum(-1, keepdims=True)) @ v
        return out.swapaxes(0, 1).reshape(q.shape[1], -1).astype(np.float32)

    def _layer(self, x, starts, prefix):
        h = self._norm(x, prefix + "input_layernorm")
        q, k, v = (np.split(self._linear(h, f"{prefix}self_attn.{which}_proj"), starts) for which in "qkv")
        attended = np.concatenate([self._attention(*text) for text in zip(q, k, v, strict=True)])
        x = x + self._linear(attended, prefix + "self_attn.o_proj")
        h = self._norm(x, prefix + "post_attention_layernorm")
        gate = self._linear(h, prefix + "mlp.gate_proj")
        return x + self._linear(gate / (1 + np.exp(-gate)) * self._linear(h, prefix + "mlp.up_proj"), prefix + "mlp.down_proj")

    def score(self, pairs):
        """For each (ids of a context, ids of its continuation): the sum of the continuation's log-probabilities, whether each
        of its tokens is the likeliest, and the smallest distance of one of them from its strongest rival."""
        texts = [context + continuation for context, continuation in pairs]
        starts = np.cumsum([len(text) for text in texts])[:-1]
        x = self.weights["model.embed_tokens.weight"][np.concatenate(texts)]
        for layer in range(self.layers):
            x = self._layer(x, starts, f"model.layers.{layer}.")
        tied = "lm_head.weight" not in self.weights
        head = self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
        scores = []
        for rows, (context, continuation) in zip(np.split(x, starts), pairs, strict=True):
            logits = (self._norm(rows[len(context) - 1:-1], "model.norm") @ head.T).astype(np.float64)
            own = logits[np.arange(len(continuation)), continuation]
            total = logits.max(-1) + np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1))
            logits[np.arange(len(continuation)), continuation] = -np.inf
            lead = own - logits.max(-1)
            scores.append(Score(float((own - total).sum()), bool((lead > 0).all()), float(np.abs(lead).min())))
        return scores
