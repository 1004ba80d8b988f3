"""Quantised side of the golden models: each storage form of safetensors checkpoints, encoded and decoded by the
definition of its format. `quantise(state, storage)` gives the tensors to store, what they decode to (float32) and the
checkpoint's quantization_config. Linear layers are quantised; embeddings, norms and the head are bf16.

To add a form: a function [out, in] float32 -> ({suffix: tensor}, decoded) and a row in FORMS."""
import torch

E4M3 = torch.float8_e4m3fn
FP4 = torch.tensor([0., .5, 1., 1.5, 2., 3., 4., 6.])
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble j of a word is output 8 w + AWQ_ORDER[j]
GROUP = 32
BLOCK = (24, 32)


def bytes_with_scale(weight, scale, dtype, top):
    q = (weight / scale).clamp(-top, top)
    q = q.to(E4M3) if dtype == E4M3 else q.round().to(torch.int8)
    return q, q.float() * scale


def fp8_tensor(weight):
    scale = (weight.abs().amax() / 448).reshape(())
    q, decoded = bytes_with_scale(weight, scale, E4M3, 448)
    return {"weight": q, "weight_scale": scale, "input_scale": torch.tensor(0.05)}, decoded


def channel(weight, dtype, top):
    scale = (weight.abs().amax(1, keepdim=True) / top).bfloat16()
    q, decoded = bytes_with_scale(weight, scale.float(), dtype, top)
    return {"weight": q, "weight_scale": scale}, decoded


def fp8_block(weight):
    rows, cols = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -cols % BLOCK[1], 0, -rows % BLOCK[0]))
    tiles = padded.reshape(padded.shape[0] // BLOCK[0], BLOCK[0], -1, BLOCK[1])
    scale = tiles.abs().amax((1, 3)) / 448
    spread = scale.repeat_interleave(BLOCK[0], 0)[:rows].repeat_interleave(BLOCK[1], 1)[:, :cols]
    q, decoded = bytes_with_scale(weight, spread, E4M3, 448)
    return {"weight": q, "weight_scale_inv": scale}, decoded


def int4_values(weight, dtype, symmetric):
    """Values 0 ... 15, scales and zero points [out, groups], decoded."""
    groups = weight.reshape(weight.shape[0], -1, GROUP)
    if symmetric:
        scale = (groups.abs().amax(-1) / 7.5).to(dtype)
        zero = torch.full_like(scale, 8).int()
    else:
        low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
        scale = ((high - low) / 15).to(dtype)
        zero = (-low / scale.float()).round().clamp(1, 15).int()
    q = ((groups / scale.float()[..., None]).round() + zero[..., None]).clamp(0, 15).int()
    decoded = (q - zero[..., None]).float() * scale.float()[..., None]
    return q.reshape(weight.shape), scale, zero, decoded.reshape(weight.shape)


def words(values, order=range(8)):
    """Eight values along the last dimension to an int32, value order[j] in nibble j."""
    groups = values.long().reshape(*values.shape[:-1], -1, 8)
    packed = sum(groups[..., i] << (4 * j) for j, i in enumerate(order))
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def packed_int4(weight, symmetric):
    q, scale, zero, decoded = int4_values(weight, torch.bfloat16, symmetric)
    stored = {"weight_packed": words(q), "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}
    if not symmetric:
        stored["weight_zero_point"] = words(zero.t().contiguous()).t().contiguous()
    return stored, decoded


def gptq(weight):
    q, scale, zero, decoded = int4_values(weight, torch.float16, False)
    return {"qweight": words(q).t().contiguous(), "qzeros": words((zero - 1).t().contiguous()),
            "scales": scale.t().contiguous(), "g_idx": torch.arange(weight.shape[1]).int() // GROUP}, decoded


def awq(weight):
    q, scale, zero, decoded = int4_values(weight, torch.float16, False)
    return {"qweight": words(q.t().contiguous(), AWQ_ORDER), "qzeros": words(zero.t().contiguous(), AWQ_ORDER),
            "scales": scale.t().contiguous()}, decoded


def mxfp4(weight):
    groups = weight.reshape(weight.shape[0], -1, 32)
    exponent = (groups.abs().amax(-1).log2().floor() - 2).clamp(-127, 127)
    scaled = groups / torch.exp2(exponent)[..., None]
    code = (scaled.abs()[..., None] - FP4).abs().argmin(-1)
    decoded = (FP4[code] * scaled.sign() * torch.exp2(exponent)[..., None]).reshape(weight.shape)
    nibbles = (code + 8 * (scaled < 0)).reshape(weight.shape).to(torch.uint8)
    return {"weight": nibbles[:, ::2] | nibbles[:, 1::2] << 4,
            "weight_scale": (exponent + 127).to(torch.uint8)}, decoded


def compressed(*weights, form):
    groups = {f"group_{i}": {"targets": ["Linear"], "weights": w} for i, w in enumerate(weights)}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"]}


def ct_weights(kind, bits, strategy, **more):
    return {"type": kind, "num_bits": bits, "strategy": strategy, "symmetric": True} | more


INT4 = ct_weights("int", 4, "group", group_size=GROUP)
FP8_CHANNEL = ct_weights("float", 8, "channel")
# storage: (quantization_config, function of a layer's name that gives its form, or None to leave it alone)
FORMS = {
    "fp8-tensor": ({"quant_method": "fp8", "activation_scheme": "static"}, lambda name: fp8_tensor),
    "fp8-block": ({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                   "weight_block_size": list(BLOCK)}, lambda name: fp8_block),
    "fp8-channel": (compressed(FP8_CHANNEL, form="float-quantized"),
                    lambda name: lambda w: channel(w, E4M3, 448)),
    "int8-channel": (compressed(ct_weights("int", 8, "channel"), form="int-quantized"),
                     lambda name: lambda w: channel(w, torch.int8, 127)),
    "int4-packed": (compressed(INT4, form="pack-quantized"), lambda name: lambda w: packed_int4(w, True)),
    "int4-packed-asym": (compressed(INT4 | {"symmetric": False}, form="pack-quantized"),
                         lambda name: lambda w: packed_int4(w, False)),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False,
              "checkpoint_format": "gptq"}, lambda name: gptq),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
            lambda name: awq),
    "mxfp4": ({"quant_method": "quark", "global_quant_config": {"weight": {
        "dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}}, "exclude": ["lm_head"]},
        lambda name: mxfp4),
    # int4 in the MLP, fp8 in attention, keys left alone
    "mixed": (compressed(INT4, FP8_CHANNEL, form="mixed-precision") | {"ignore": ["lm_head", "re:.*k_proj$"]},
              lambda name: (lambda w: packed_int4(w, True)) if "mlp" in name else
              None if "k_proj" in name else lambda w: channel(w, E4M3, 448)),
}


def quantise(state, storage):
    config, form_of = FORMS[storage]
    stored, decoded = {}, {}
    for name, tensor in state.items():
        form = form_of(name) if name.endswith("_proj.weight") else None
        if form is None:
            stored[name] = tensor.bfloat16()
            decoded[name] = stored[name].float()
            continue
        tensors, decoded[name] = form(tensor.float())
        stored |= {f"{name.removesuffix('weight')}{leaf}": t.contiguous() for leaf, t in tensors.items()}
    return stored, decoded, config
