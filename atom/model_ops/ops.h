// The op contract: every op once, with shapes, dtypes and numerics. An OpTable is one backend's
// implementation; backends: cpu (model_ops/cpu) and gpu (model_ops/gpu, opened at run time by
// gpu_backend.h). To add an op: a field here, the CPU reference, the adapters of each backend, and
// rows in tests/conformance. "Activation" below is a tensor of OpTable::activation_dtype,
// "residual" one of residual_dtype: f32 both on the CPU. All tensors are on the device of ctx. Ops
// write `out` completely; in and out do not overlap unless said. Numerics: f32 accumulation. Every
// output element is accumulated in one order that depends neither on the number of rows of x, nor
// on threads: results are bitwise equal at any batch size and any chunking.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "atom/config.h"
#include "atom/core/buffer.h"
#include "atom/core/error.h"
#include "atom/core/tensor.h"
#include "atom/model_ops/linear_weight.h"
#include "atom/model_ops/moe.h"
#include "atom/model_ops/sampler.h"
#include "kernels/common/device_runtime.h"
#include "kernels/common/parallel.h"
#include "kernels/common/params.h"

namespace atom {

struct OpTable;
class DeviceUploader;

// Everything an op may use; an explicit argument, no globals.
struct ExecContext {
  const OpTable* ops = nullptr;
  ParallelFor parallel;
  Arena* arena = nullptr;  // activations and op scratch of this step
  const AttentionMetadata* attention = nullptr;
  Device device;
  const DeviceRuntime* runtime = nullptr;  // nullptr: the host is the device
  DeviceStream stream = nullptr;
  void* backend = nullptr;  // what the backend keeps between calls: handles, counters, scratch
  DeviceUploader* uploader = nullptr;  // while weights are loaded to a device
  bool batch_invariant =
      false;  // every row rounds the same in a step of any size: nothing is fused
};

struct QkNormRopeKvWriteParams {
  Tensor qkv;  // [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]; q is normed and rotated
               // in place
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim =
      0;           // leading dims of each head that rotate; pairs are (i, i + rotary_dim / 2)
  Tensor cos_sin;  // f32 [num_tokens, rotary_dim]: cos of each frequency, then sin
  const float* q_norm = nullptr;  // [head_dim] RMSNorm weight, or none
  const float* k_norm = nullptr;
  float norm_eps = 1e-6F;
  PagedKvCache cache;  // k and v rows go to slot_mapping
};

struct PagedAttentionParams {
  Tensor qkv;  // as above, after qk_norm_rope_kv_write; only q is read
  Tensor out;  // [num_tokens, num_heads * head_dim]
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1.0F;
  PagedKvCache cache;
  int64_t sliding_window = 0;    // 0 = full causal; else keys at position > p - sliding_window
  const float* sinks = nullptr;  // [num_heads] extra softmax logit without value, or none
};

// Latent attention (MLA). A token's cache row is its normed latent [rank] followed by its
// rotated key part [rope]: one KV head, no values apart (PagedKvCache::v is none). The
// up-projections of keys and values are absorbed: queries come in latent space and attention
// returns latents, both through linear_heads. Prefill and decode are this one form: another order
// of sums (expanded keys for prompts) would give a token other bits in a chunk than alone.
struct MlaCacheWriteParams {
  MlaShape shape;
  Tensor q;       // [num_tokens, num_heads * (nope + rope)]
  Tensor latent;  // [num_tokens, rank + rope] as projected (a GPU: and padding to 8 values)
  // [num_tokens, num_heads * (rank + rope)]: the rotated parts of q go to the last `rope` of each
  // head; the rest is not touched
  Tensor query;
  const float* norm = nullptr;  // [rank] RMSNorm weight of the latent
  float norm_eps = 1e-6F;
  Tensor cos_sin;  // f32 [num_tokens, rope]; pairs (2i, 2i + 1) rotate
  PagedKvCache cache;
};

struct MlaAttentionParams {
  MlaShape shape;
  Tensor query;  // [num_tokens, num_heads * (rank + rope)]
  Tensor out;    // [num_tokens, num_heads * rank]: weighted sums of latents
  float scale = 1.0F;
  PagedKvCache cache;
};

// out[t, h, :out_features] = x[t, h, :in_features] . weight_h^T: heads of x and out lie x_stride
// and out_stride values apart; what is not named is not touched.
struct LinearHeadsParams {
  Tensor x;    // [num_tokens, num_heads * x_stride]
  Tensor out;  // [num_tokens, num_heads * out_stride]
  int64_t x_stride = 0;
  int64_t out_stride = 0;
};

struct OpTable {
  std::string_view name;
  int64_t max_head_dim = 0;  // of paged_attention; a larger model is refused at load
  // Of mla_attention; 0: the backend has no latent attention.
  int64_t max_latent_rank = 0;
  int64_t max_latent_rope = 0;
  DType activation_dtype = DType::kF32;
  DType residual_dtype = DType::kF32;

  // Once per step, after ctx.attention is set and before any other op: work that all layers share,
  // such as the task list of attention. May be nullptr.
  void (*begin_step)(const ExecContext& ctx) = nullptr;

  // Packs `parts` (same cols, stacked along rows) for `linear`. compute kFloat32 keeps exact f32
  // activations; kBFloat16 (and kAuto) may use whatever the backend computes fastest within bf16
  // rounding. nullptr: the backend reads rows as pack_linear_device (device_weights.h) lays them
  // out.
  Status (*pack_linear)(const ExecContext& ctx, std::span<const WeightPart> parts,
                        ComputeType compute, LinearWeight& out) = nullptr;
  // Whether `linear`, and the ops that stand for it, read weights as pack_stored_linear
  // (device_linear.h) lays them out.
  bool reads_packed_linear = false;
  // out [num_tokens, out_features] = x [num_tokens, in_features] . weight^T + bias; x is an
  // activation, out an activation or f32 (logits)
  void (*linear)(const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                 const Tensor& out) = nullptr;
  // As linear, for an activation that only the next op reads: rope_paged_attention or
  // qk_norm_rope_kv_write as its qkv, silu_mul as its gate_up, add_rms_norm as its x. `out` may
  // lack the scales of a quantised weight, which that op then applies. nullptr: linear.
  void (*linear_for_next)(const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                          const Tensor& out) = nullptr;
  // ids i32 [num_tokens] -> out residual [num_tokens, hidden_size]; table [vocab_size,
  // hidden_size]: on the CPU of any dtype, block types included, and maybe unaligned mapped memory;
  // on a GPU bf16
  void (*embedding)(const ExecContext& ctx, const Tensor& ids, const Tensor& table,
                    const Tensor& out) = nullptr;
  // out = x / rms(x) * weight; x residual, out activation [num_tokens, hidden_size]; weight f32
  // [hidden_size]; out may be x where the dtypes are equal
  void (*rms_norm)(const ExecContext& ctx, const Tensor& x, const float* weight, float eps,
                   const Tensor& out) = nullptr;
  // residual += x; out = rms_norm(residual); all [num_tokens, hidden_size]; out may be x
  void (*add_rms_norm)(const ExecContext& ctx, const Tensor& x, const Tensor& residual,
                       const float* weight, float eps, const Tensor& out) = nullptr;
  // out activation [num_tokens, 2 * hidden_size]: rms_norm(a) with a_weight, then rms_norm(b) with
  // b_weight; a residual, b residual or activation, both [num_tokens, hidden_size]
  void (*norm_concat)(const ExecContext& ctx, const Tensor& a, const float* a_weight,
                      const Tensor& b, const float* b_weight, float eps,
                      const Tensor& out) = nullptr;
  // out [num_tokens, n] = silu(gate_up[:, :n]) * gate_up[:, n:]; gate_up [num_tokens, 2n]
  void (*silu_mul)(const ExecContext& ctx, const Tensor& gate_up, const Tensor& out) = nullptr;
  // cos_sin f32 [num_tokens, rotary_dim] of ctx.attention->positions: cosines times `scale`, then
  // sines times `scale`; inv_freq [rotary_dim / 2]; angle = float(position) * inv_freq in f32, as
  // the reference implementation
  void (*rope_cos_sin)(const ExecContext& ctx, std::span<const float> inv_freq, float scale,
                       const Tensor& cos_sin) = nullptr;
  void (*qk_norm_rope_kv_write)(const ExecContext& ctx,
                                const QkNormRopeKvWriteParams& params) = nullptr;
  void (*paged_attention)(const ExecContext& ctx, const PagedAttentionParams& params) = nullptr;
  // All three or none.
  void (*mla_cache_write)(const ExecContext& ctx, const MlaCacheWriteParams& params) = nullptr;
  void (*mla_attention)(const ExecContext& ctx, const MlaAttentionParams& params) = nullptr;
  // `weights` as pack_linear packed them, from one part of num_heads * heads_row_stride rows.
  void (*linear_heads)(const ExecContext& ctx, const HeadsWeight& weights,
                       const LinearHeadsParams& params) = nullptr;
  // mla_cache_write, then linear_heads of its q with `key_up` into its query. nullptr: the two ops.
  void (*mla_queries)(const ExecContext& ctx, const MlaCacheWriteParams& params,
                      const HeadsWeight& key_up) = nullptr;
  // mla_attention, then linear_heads of its out with `value_up`: values [num_tokens, num_heads *
  // out_features of a head]. What params.out holds afterwards is not said. nullptr: the two ops.
  void (*mla_values)(const ExecContext& ctx, const MlaAttentionParams& params,
                     const HeadsWeight& value_up, const Tensor& values) = nullptr;
  // A layer of a small step in fewer passes, for up to max_fused_tokens tokens (0: the backend has
  // none of these). Same shapes and meaning as the ops they stand for; roundings may differ.
  int64_t max_fused_tokens = 0;
  // out = linear(rms_norm(residual))
  void (*norm_linear)(const ExecContext& ctx, const Tensor& residual, const float* norm_weight,
                      float eps, const LinearWeight& weight, const Tensor& out) = nullptr;
  // out [num_tokens, out_features / 2] = silu_mul(linear(rms_norm(residual)))
  void (*norm_linear_silu_mul)(const ExecContext& ctx, const Tensor& residual,
                               const float* norm_weight, float eps, const LinearWeight& weight,
                               const Tensor& out) = nullptr;
  // residual += linear(x)
  void (*linear_add)(const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                     const Tensor& residual) = nullptr;
  // Mixture of experts (moe.h); nullptr: the backend has none, and such models are refused at load.
  void (*route)(const ExecContext& ctx, const RouterParams& params) = nullptr;
  void (*fused_experts)(const ExecContext& ctx, const ExpertsWeight& experts,
                        const FusedExpertsParams& params) = nullptr;
  // x = rms_norm(residual), params.logits = linear(x), route: with the fused ops above, for models
  // with experts. x activation [num_tokens, hidden_size]
  void (*norm_route)(const ExecContext& ctx, const Tensor& residual, const float* norm_weight,
                     float eps, const LinearWeight& router, const RouterParams& params,
                     const Tensor& x) = nullptr;
  // qk_norm_rope_kv_write, then paged_attention of the same qkv; q need not be written to qkv.
  // nullptr: the two ops.
  void (*rope_paged_attention)(const ExecContext& ctx, const QkNormRopeKvWriteParams& rope,
                               const PagedAttentionParams& attention) = nullptr;
  // Weights of --load_dummy. out bf16 [n]: value i is uniform in [-limit, limit), a function of
  // state + i alone, equal on every backend (see dummy_value in kernels/common/dummy.h).
  void (*fill_random)(const ExecContext& ctx, uint64_t state, float limit,
                      const Tensor& out) = nullptr;
  // weight bf16 [n, k] -> out e4m3 [n, k] and scales f32 [n], scale = largest magnitude of the row
  // / 448. nullptr: the backend has no fp8.
  void (*quantize_fp8)(const ExecContext& ctx, const Tensor& weight, const Tensor& out,
                       const Tensor& scales) = nullptr;
  // out[i] = x[rows[i]]; rows i32 [num_rows]; x, out activations [., n]
  void (*gather_rows)(const ExecContext& ctx, const Tensor& x, const Tensor& rows,
                      const Tensor& out) = nullptr;
  // See sampler.h. The host's form: a GPU samples through GpuBackend::sample instead.
  void (*sample)(const ExecContext& ctx, const Tensor& logits, std::span<const SamplingRow> rows,
                 std::span<SampledToken> out) = nullptr;
  void (*token_logprobs)(const ExecContext& ctx, const Tensor& logits,
                         std::span<const int32_t> targets, int32_t num_top,
                         std::span<SampledToken> out) = nullptr;
};

// The CPU backend. level 0 runs the reference kernels (the oracle), any other level the best
// kernels of this processor.
const OpTable& cpu_op_table(int level);

}  // namespace atom
