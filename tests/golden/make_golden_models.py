#!/usr/bin/env python3
"""Generates the golden models: tiny random checkpoints of every dense family, storage type and GGUF format,
with reference logits and greedy continuations.

    python3 make_golden_models.py [--out tests/golden]

The reference is Hugging Face transformers in float32 on CPU (torch 2.15.0, transformers 5.17.0, accelerate),
computed on the weights as stored (rounded to their type; GGUF blocks decoded by the `gguf` package 0.19.0),
and checked against what transformers computes from the written files.
Everything follows from the seeds below; the outputs are committed, so nothing here runs in CI.

Written per model NAME:
    models/NAME/            an ordinary checkpoint directory, or one .gguf file
    reference/NAME/reference.json       prompts, greedy tokens, their lead over the runner-up, tolerances
    reference/NAME/weights.safetensors  p{i}.logits f32 [rows, vocab_size]: all rows of the short prompts,
                                        the last four of the long one

To add a model: a row in MODELS. A new family also needs its GGUF names and metadata in golden_gguf.py.
"""
import argparse
import copy
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import golden_gguf
import golden_quant
import golden_tokenizer

VOCAB = golden_tokenizer.VOCAB_SIZE
TORCH_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GREEDY_TOKENS = 24
LONG_PROMPT = 70
MIN_LEAD = 0.05  # logits; a seed is rejected when any greedy token leads by less

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", rms_norm_eps=1e-5,
             rope_theta=500000.0, attention_bias=False, mlp_bias=False, max_position_embeddings=512,
             num_hidden_layers=2, vocab_size=VOCAB, tie_word_embeddings=False)
QWEN3 = dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_act="silu", rms_norm_eps=1e-6,
             rope_theta=1000000.0, attention_bias=False, max_position_embeddings=512, num_hidden_layers=2,
             vocab_size=VOCAB, tie_word_embeddings=False, use_sliding_window=False)
QWEN2 = dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_act="silu", rms_norm_eps=1e-6,
             rope_theta=1000000.0, max_position_embeddings=512, num_hidden_layers=2, vocab_size=VOCAB,
             tie_word_embeddings=False, use_sliding_window=False, sliding_window=512, max_window_layers=2)
MISTRAL = dict(architectures=["MistralForCausalLM"], model_type="mistral", hidden_act="silu", rms_norm_eps=1e-5,
               rope_theta=10000.0, max_position_embeddings=512, num_hidden_layers=2, vocab_size=VOCAB,
               tie_word_embeddings=False)
PHI3 = dict(architectures=["Phi3ForCausalLM"], model_type="phi3", hidden_act="silu", rms_norm_eps=1e-5,
            rope_theta=10000.0, rope_scaling=None, max_position_embeddings=512,
            original_max_position_embeddings=512, num_hidden_layers=2, vocab_size=VOCAB, tie_word_embeddings=False,
            pad_token_id=None)
SMALL = dict(hidden_size=48, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
BLOCKS = dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
TINY = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
K_BLOCKS = dict(hidden_size=256, intermediate_size=256, num_attention_heads=4, num_key_value_heads=1,
                head_dim=64, num_hidden_layers=1)
LLAMA31_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32}

YARN = {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 64}
# Latent attention; one dense layer, one with 3 groups of 4 experts.
DEEPSEEK = dict(hidden_act="silu", rms_norm_eps=1e-6, rope_theta=10000.0, attention_bias=False,
                max_position_embeddings=2560, num_hidden_layers=2, vocab_size=VOCAB, tie_word_embeddings=False,
                hidden_size=48, intermediate_size=64, num_attention_heads=4, num_key_value_heads=4,
                kv_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=16,
                first_k_dense_replace=1, moe_layer_freq=1, n_routed_experts=12, num_experts_per_tok=3, n_group=3,
                topk_group=2, moe_intermediate_size=16)
DEEPSEEK_V2 = DEEPSEEK | dict(
    architectures=["DeepseekV2ForCausalLM"], model_type="deepseek_v2", q_lora_rank=None, n_shared_experts=2,
    scoring_func="softmax", topk_method="group_limited_greedy", norm_topk_prob=False, routed_scaling_factor=2.0,
    rope_scaling=YARN | {"mscale": 0.707, "mscale_all_dim": 0.8})
DEEPSEEK_V3 = DEEPSEEK | dict(
    architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", q_lora_rank=24, n_shared_experts=1,
    scoring_func="sigmoid", topk_method="noaux_tc", norm_topk_prob=True, routed_scaling_factor=2.5,
    rope_scaling=YARN)

# Experts in place of the MLP: two layers of four dozen kB.
EXPERTS = dict(hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_hidden_layers=2,
               max_position_embeddings=512, vocab_size=VOCAB, tie_word_embeddings=False, hidden_act="silu",
               rms_norm_eps=1e-5, num_experts_per_tok=3)
QWEN3_MOE = EXPERTS | dict(
    architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", rope_theta=1000000.0, attention_bias=False,
    intermediate_size=80, moe_intermediate_size=24, num_experts=10, norm_topk_prob=True, decoder_sparse_step=1,
    mlp_only_layers=[0], use_sliding_window=False)
MIXTRAL = EXPERTS | dict(
    architectures=["MixtralForCausalLM"], model_type="mixtral", rope_theta=1000000.0, intermediate_size=40,
    num_local_experts=6, num_experts_per_tok=2, sliding_window=None)
GLM4_MOE = EXPERTS | dict(
    architectures=["Glm4MoeForCausalLM"], model_type="glm4_moe", rope_theta=10000.0, attention_bias=True,
    partial_rotary_factor=0.5, use_qk_norm=True, intermediate_size=80, moe_intermediate_size=24,
    n_routed_experts=12, n_shared_experts=1, n_group=1, topk_group=1, first_k_dense_replace=1,
    norm_topk_prob=True, routed_scaling_factor=1.5)
GPT_OSS = EXPERTS | dict(
    architectures=["GptOssForCausalLM"], model_type="gpt_oss", rope_theta=150000.0, attention_bias=True,
    intermediate_size=40, num_local_experts=8, sliding_window=12, swiglu_limit=7.0, num_hidden_layers=2,
    layer_types=["sliding_attention", "full_attention"], max_position_embeddings=4096,
    rope_scaling={"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                  "original_max_position_embeddings": 128})

# name: (seed, config, storage, options)
MODELS = {
    "llama-gqa-bf16": (101, LLAMA | SMALL, "bfloat16", {}),
    "llama-tied-f16": (102, LLAMA | SMALL | dict(tie_word_embeddings=True), "float16", {}),
    "llama31-rope-sharded-bf16": (
        103, LLAMA | SMALL | dict(rope_scaling=LLAMA31_ROPE, max_position_embeddings=256), "bfloat16",
        dict(shards=3)),
    "llama-biases-head-dim-f32": (
        104, LLAMA | TINY | dict(hidden_size=36, num_attention_heads=3, head_dim=24, attention_bias=True,
                                 mlp_bias=True), "float32", {}),
    "qwen3-untied-bf16": (105, QWEN3 | SMALL | dict(head_dim=32), "bfloat16", {}),
    "qwen3-tied-padded-f32": (
        106, QWEN3 | TINY | dict(tie_word_embeddings=True, vocab_size=VOCAB + 16, eos_token_id=[1, 3]),
        "float32", dict(stored_head=True)),
    "qwen2-tied-bf16": (113, QWEN2 | TINY | dict(tie_word_embeddings=True), "bfloat16", {}),
    "qwen2-upper-window-bf16": (
        114, QWEN2 | TINY | dict(use_sliding_window=True, sliding_window=12, max_window_layers=1), "bfloat16", {}),
    "mistral-window-bf16": (115, MISTRAL | SMALL | dict(sliding_window=12), "bfloat16", {}),
    "phi3-window-bf16": (116, PHI3 | {k: v for k, v in SMALL.items() if k != "head_dim"} | dict(
        hidden_size=64, sliding_window=20), "bfloat16", {}),
    "llama32-tied-rope-bf16": (
        117, LLAMA | TINY | dict(tie_word_embeddings=True, rope_scaling=LLAMA31_ROPE | {"factor": 32.0}),
        "bfloat16", {}),
    "deepseek-v2-grouped-bf16": (107, DEEPSEEK_V2, "bfloat16", {}),
    "deepseek-v3-bf16": (108, DEEPSEEK_V3, "bfloat16", {}),
    "qwen3-moe-bf16": (109, QWEN3_MOE, "bfloat16", {}),
    "mixtral-bf16": (110, MIXTRAL, "bfloat16", {}),
    "glm4-moe-bf16": (111, GLM4_MOE, "bfloat16", {}),
    "gpt-oss-bf16": (112, GPT_OSS, "bfloat16", {}),
    **{f"{family}-{storage}": (300 + i, base | BLOCKS | dict(num_hidden_layers=1), storage, dict(quantised=True))
       for i, (family, base, storage) in enumerate([
           ("llama", LLAMA, "fp8-tensor"), ("qwen3", QWEN3, "fp8-block"), ("llama", LLAMA, "fp8-channel"),
           ("qwen3", QWEN3, "int8-channel"), ("llama", LLAMA, "int4-packed"),
           ("qwen3", QWEN3, "int4-packed-asym"), ("llama", LLAMA, "gptq"), ("qwen3", QWEN3, "awq"),
           ("llama", LLAMA, "mxfp4"), ("llama", LLAMA, "mixed")])},
    "gguf-llama-f16": (201, LLAMA | SMALL | dict(rope_scaling=LLAMA31_ROPE), "F16", {}),
    "gguf-llama-q8_0": (202, LLAMA | BLOCKS, "Q8_0", {}),
    "gguf-llama-q4_0": (203, LLAMA | BLOCKS | dict(tie_word_embeddings=True), "Q4_0", {}),
    "gguf-qwen3-bf16": (204, QWEN3 | TINY | dict(head_dim=32), "BF16", {}),
    "gguf-qwen3-q4_1": (205, QWEN3 | BLOCKS, "Q4_1", {}),
    "gguf-qwen2-q8_0": (207, QWEN2 | TINY, "Q8_0", {}),
    "gguf-llama-q4_k_m": (206, LLAMA | K_BLOCKS, "Q4_K_M", {}),
}


def random_weights(model, seed):
    """Weights with which activations keep their size and logits spread over about +-10."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(model.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name:
            value = 1.0 + 0.2 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embed_tokens" in name or "lm_head" in name:
            value = noise * 3.0 / tensor.shape[1] ** 0.5
        else:
            value = noise * 1.3 / tensor.shape[-1] ** 0.5
        tensor.copy_(value)
    separate_experts(model, generator)
    model.tie_weights()


def separate_experts(model, generator):
    """Lets routers read a code that embeddings carry and no layer touches, so that no rounding changes a choice:
    the first num_experts dimensions of a token are a permutation of evenly spaced values."""
    weights = model.state_dict()
    routers = [name for name in weights if name.endswith(("mlp.gate.weight", "mlp.router.weight"))]
    if not routers:
        return
    count = weights[routers[0]].shape[0]
    embedding = weights["model.embed_tokens.weight"]
    steps = torch.linspace(-1.0, 1.0, count)
    for row in embedding:
        row[:count] = steps[torch.randperm(count, generator=generator)]
    for name, tensor in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor[:count] = 0.0
        elif name.endswith("experts.down_proj"):
            rows = tensor if tensor.shape[1] == embedding.shape[1] else tensor.transpose(1, 2)
            rows[:, :count] = 0.0
        elif name.endswith(("experts.down_proj_bias", "o_proj.bias")):
            tensor[..., :count] = 0.0
        elif name.endswith("post_attention_layernorm.weight"):
            tensor[:count] = 1.0
        elif name in routers:
            tensor *= 0.02
            tensor[:, :count] += torch.eye(count)[torch.randperm(count, generator=generator)] * 2.5
        elif name.endswith("e_score_correction_bias"):
            tensor.copy_(torch.round(tensor * 4.0) / 4.0)


def checkpoint_names(state, family):
    """Experts under the names of public checkpoints; transformers holds them stacked, as GPT-OSS stores them."""
    if family == "gpt_oss":
        return state
    if family == "mixtral":
        words = {".mlp.": ".block_sparse_moe.", ".gate_proj.": ".w1.", ".up_proj.": ".w3.", ".down_proj.": ".w2."}
        renamed = {}
        for name, tensor in checkpoint_names(state, "").items():
            for word, public in words.items():
                name = name.replace(word, public)
            renamed[name] = tensor
        return renamed
    tensors = {}
    for name, tensor in state.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name] = tensor
            continue
        prefix, kind = name.rsplit(".", 1)
        for i, expert in enumerate(tensor):
            parts = expert.chunk(2) if kind == "gate_up_proj" else [expert]
            for part, weight in zip(["gate_proj", "up_proj"] if len(parts) == 2 else ["down_proj"], parts):
                tensors[f"{prefix}.{i}.{part}.weight"] = weight
    return tensors


class RouterChoices:
    """Records which experts every router of a model chooses."""

    def __init__(self, model):
        self.ids = []
        for module in model.modules():
            if type(module).__name__.endswith("Router"):
                module.register_forward_hook(lambda _, __, out: self.ids.append(out[2].sort(-1).values))


def cast_parameters(model, dtype):
    """Parameters only: model.to() would also round the rotary frequencies, which loading never does."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def prompts(seed):
    random = np.random.default_rng(seed)
    return [random.integers(4, VOCAB, size=n).tolist() for n in (1, 17, LONG_PROMPT)]


@torch.no_grad()
def greedy(model, ids):
    tokens, leads = [], []
    for _ in range(GREEDY_TOKENS):
        top = torch.topk(model(torch.tensor([ids + tokens])).logits[0, -1].float(), 2)
        tokens.append(int(top.indices[0]))
        leads.append(round(float(top.values[0] - top.values[1]), 5))
    return tokens, leads


@torch.no_grad()
def reference(model, seed, name):
    entries, tensors, nmse, dlogprob, same_experts = [], {}, 0.0, 0.0, True
    half = cast_parameters(copy.deepcopy(model), torch.bfloat16)
    choices, half_choices = RouterChoices(model), RouterChoices(half)
    for i, ids in enumerate(prompts(seed)):
        tokens, leads = greedy(model, ids)
        choices.ids.clear()
        logits = model(torch.tensor([ids])).logits[0].float()
        rounded = half(torch.tensor([ids])).logits[0].float()
        nmse = max(nmse, float(((rounded - logits) ** 2).sum() / (logits ** 2).sum()))
        same_experts &= all(map(torch.equal, choices.ids, half_choices.ids))
        half_choices.ids.clear()
        difference = rounded.log_softmax(-1) - logits.log_softmax(-1)
        dlogprob = max(dlogprob, float(difference.gather(-1, logits.topk(5).indices).abs().max()))
        tensors[f"p{i}.logits"] = logits[-4:].contiguous() if len(ids) == LONG_PROMPT else logits
        entries.append({"ids": ids, "greedy": tokens, "top2_gap": leads, "logits": f"p{i}.logits",
                        "positions": "last4" if len(ids) == LONG_PROMPT else "all"})
    return tensors, {
        "model": name, "architecture": model.config.architectures[0], "vocab_size": model.config.vocab_size,
        "seed": seed,
        "variants": {"weights": {
            "prompts": entries,
            "stats": {"bf16_nmse": float(f"{nmse:.3g}"), "bf16_max_dlogprob": float(f"{dlogprob:.3g}"),
                      "min_top2_gap": min(min(e["top2_gap"]) for e in entries),
                      "bf16_same_experts": same_experts},
            "tolerance": {"nmse": float(f"{3 * nmse:.3g}"), "logprob": float(f"{3 * dlogprob:.3g}"),
                          "near_tie": float(f"{1.5 * dlogprob:.3g}")}}}}


def round_to_int8(_, args):
    x = args[0]
    scale = x.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (((x.float() / scale).round() * scale).to(x.dtype),)


@torch.no_grad()
def rounded_activations(model, facts):
    """Logits with the inputs of quantised layers as 8-bit integers per token, which INT8 checkpoints define."""
    half = cast_parameters(copy.deepcopy(model), torch.bfloat16)
    hooks = [module.register_forward_pre_hook(round_to_int8) for m in (model, half)
             for name, module in m.named_modules() if name.endswith("_proj")]
    tensors, nmse = {}, 0.0
    for i, entry in enumerate(facts["variants"]["weights"]["prompts"]):
        logits, rounded = (m(torch.tensor([entry["ids"]])).logits[0].float() for m in (model, half))
        nmse = max(nmse, float(((rounded - logits) ** 2).sum() / (logits ** 2).sum()))
        tensors[f"p{i}.logits"] = logits[-4:].contiguous() if entry["positions"] == "last4" else logits
    for hook in hooks:
        hook.remove()
    facts["variants"]["activations"] = {"kind": "int8_token", "tolerance": {"nmse": float(f"{3 * nmse:.3g}")}}
    return tensors


def save_quantised(tensors, quantization, config, path):
    """Only what the engine reads for logits: no tokenizer."""
    path.mkdir(parents=True)
    full = {"bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"} | config
    (path / "config.json").write_text(json.dumps(full | {"quantization_config": quantization}, indent=1) + "\n")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def save_directory(model, config, storage, options, path):
    """config.json as a public checkpoint has it, weights in one file or in shards with an index."""
    path.mkdir(parents=True)
    dtype = TORCH_TYPES[storage]
    tensors = {k: v.detach().to(torch.float32 if k.endswith("e_score_correction_bias") else dtype).clone().contiguous()
               for k, v in checkpoint_names(model.state_dict(), config["model_type"]).items()}
    if config["tie_word_embeddings"] and not options.get("stored_head"):
        tensors.pop("lm_head.weight", None)
    full = {"bos_token_id": 0, "eos_token_id": 1, "torch_dtype": storage} | config
    (path / "config.json").write_text(json.dumps(full, indent=1) + "\n")
    (path / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": 0, "eos_token_id": full["eos_token_id"], "do_sample": True, "temperature": 0.7,
         "top_p": 0.9}) + "\n")
    golden_tokenizer.save(path)
    shards = options.get("shards", 1)
    if shards == 1:
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    index = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]
        save_file({n: tensors[n] for n in part}, path / file, metadata={"format": "pt"})
        index |= {n: file for n in part}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    (path / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}) + "\n")


@torch.no_grad()
def check_saved(path, facts, tensors, config):
    """transformers must read from the files what the reference was computed with. (From a GGUF file it takes
    the tensors only: it knows neither Qwen3's head size nor the scaled rotary frequencies there.)"""
    where = dict(gguf_file=facts["file"], config=config) if "file" in facts else {}
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager", **where)
    for i, entry in enumerate(facts["variants"]["weights"]["prompts"]):
        expected = tensors[f"p{i}.logits"]
        logits = model.eval()(torch.tensor([entry["ids"]])).logits[0][-len(expected):]
        difference = float((logits - expected).abs().max())
        assert difference < 1e-4, f"{path}: saved and computed models differ by {difference}"


def build(name, out):
    seed, config, storage, options = MODELS[name]
    for attempt in range(200):
        hf_config = AutoConfig.for_model(**config)
        hf_config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(hf_config).float().eval()
        random_weights(model, 1000 * seed + attempt)
        if name.startswith("gguf"):
            blocks = golden_gguf.quantise(model.state_dict(), storage, config)
            model.load_state_dict({k: torch.from_numpy(v) for k, v in golden_gguf.decode(blocks).items()},
                                  strict=False)
            model.tie_weights()
        elif options.get("quantised"):
            stored, decoded, quantization = golden_quant.quantise(model.state_dict(), storage)
            model.load_state_dict(decoded)
        else:
            cast_parameters(cast_parameters(model, TORCH_TYPES[storage]), torch.float32)
        tensors, facts = reference(model, 1000 * seed + attempt, name)
        stats = facts["variants"]["weights"]["stats"]
        if stats["min_top2_gap"] >= MIN_LEAD and stats.pop("bf16_same_experts"):
            break
    else:
        raise SystemExit(f"{name}: no seed with clear greedy tokens")
    if name.startswith("gguf"):
        facts["file"] = f"{name}.gguf"
        facts["quantization"] = storage
        golden_gguf.save(out / "models" / name / f"{name}.gguf", blocks, config)
    elif options.get("quantised"):
        facts["quantization"] = storage
        save_quantised(stored, quantization, config, out / "models" / name)
    else:
        save_directory(model, config, storage, options, out / "models" / name)
    if not options.get("quantised"):
        check_saved(out / "models" / name, facts, tensors, model.config)
    folder = out / "reference" / name
    folder.mkdir(parents=True)
    save_file(tensors, folder / "weights.safetensors")
    if storage == "int8-channel":
        save_file(rounded_activations(model, facts), folder / "activations.safetensors")
    (folder / "reference.json").write_text(json.dumps(facts) + "\n")
    print(name, "attempt", attempt, facts["variants"]["weights"]["stats"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--only", nargs="*", default=list(MODELS), help="names of models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only:
        build(name, args.out)


if __name__ == "__main__":
    main()
