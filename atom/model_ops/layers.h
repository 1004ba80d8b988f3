// The layers that models are made of. Each owns its weights (filled by WeightLoader) and runs
// through the op table of the ExecContext; outputs are allocated from the step arena. A layer
// exists once, whatever the model, device or weight format. Not here: anything only one family
// needs (models/).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "atom/core/buffer.h"
#include "atom/core/tensor.h"
#include "atom/model_loader/model_config.h"
#include "atom/model_ops/ops.h"

namespace atom {

struct Linear {
  LinearWeight weight;

  // x [num_tokens, in_features] -> activation [num_tokens, out_features]
  Tensor operator()(const ExecContext& ctx, const Tensor& x) const;
  // The same by OpTable::linear_for_next, which says who may read the result.
  Tensor for_next(const ExecContext& ctx, const Tensor& x) const;
  void for_next(const ExecContext& ctx, const Tensor& x, const Tensor& out) const;
};

struct RmsNorm {
  Buffer weight;  // f32 [hidden_size]
  float eps = 1e-6F;

  // x residual [num_tokens, hidden_size] -> activation of the same shape
  Tensor operator()(const ExecContext& ctx, const Tensor& x) const;
  // residual += x; out = norm of residual. out may be x.
  void add(const ExecContext& ctx, const Tensor& x, const Tensor& residual,
           const Tensor& out) const;
};

// Row lookup in a table that stays as the checkpoint stores it.
struct Embedding {
  Tensor table;  // [vocab_size, hidden_size], any dtype
  Buffer owned;  // backing memory when the table is not mapped from a checkpoint

  // ids i32 [num_tokens] -> residual [num_tokens, hidden_size]
  Tensor operator()(const ExecContext& ctx, const Tensor& ids) const;
};

// Rotary frequencies of a model and the cos/sin rows of a step, shared by all its layers.
struct RotaryEmbedding {
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  float scale = 1.0F;           // of cosines and sines

  static RotaryEmbedding create(const RopeConfig& rope, int64_t rotary_dim);
  // f32 [num_tokens, rotary_dim] for the positions of ctx.attention
  Tensor operator()(const ExecContext& ctx) const;
};

// Grouped-query attention over the paged cache, with optional RMSNorm on q and k heads.
struct Attention {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  Linear qkv_proj;  // q, k, v stacked: [(num_heads + 2 * num_kv_heads) * head_dim, hidden_size]
  Linear o_proj;
  Buffer q_norm, k_norm;  // f32 [head_dim], empty when the family has none
  // Of an fp8 cache: stored value * scale = real value; from the checkpoint where it has them.
  float k_scale = 1.0F;
  float v_scale = 1.0F;
  float norm_eps = 1e-6F;
  int64_t sliding_window = 0;  // 0: all earlier tokens
  Buffer sinks;                // f32 [num_heads], empty when the family has none

  // x [num_tokens, hidden_size], cos_sin [num_tokens, rotary_dim] -> [num_tokens, hidden_size],
  // which only add_rms_norm may read, next
  Tensor operator()(const ExecContext& ctx, const Tensor& x, const Tensor& cos_sin,
                    const PagedKvCache& cache) const;
  // residual += attention(norm(residual)), with the fused ops
  void add_to(const ExecContext& ctx, const Tensor& residual, const RmsNorm& norm,
              const Tensor& cos_sin, const PagedKvCache& cache) const;

 private:
  // qkv [num_tokens, ...] as projected -> heads [num_tokens, num_heads * head_dim]
  void attend(const ExecContext& ctx, const Tensor& qkv, const Tensor& cos_sin,
              const PagedKvCache& cache, const Tensor& heads) const;
};

// Latent attention (DeepSeek's MLA), absorbed: queries go through `key_up` into latent space,
// attend to the cached latents, and `value_up` turns what they bring into values (mla.cpp).
struct MlaAttention {
  MlaShape shape;
  int64_t v_head_dim = 0;
  float scale = 1.0F;  // of scores
  Linear q_a_proj;     // [q_lora_rank, hidden_size]; undefined when queries are projected at once
  RmsNorm q_a_layernorm;   // [q_lora_rank]
  Linear q_proj;           // [num_heads * (nope + rope), q_lora_rank or hidden_size]
  Linear kv_a_proj;        // [rank + rope, hidden_size]
  RmsNorm kv_a_layernorm;  // [rank]
  HeadsWeight key_up;      // per head [rank, nope]
  HeadsWeight value_up;    // per head [v_head_dim, rank]
  Linear o_proj;           // [hidden_size, num_heads * v_head_dim]

  bool defined() const { return shape.num_heads > 0; }
  // x [num_tokens, hidden_size], cos_sin [num_tokens, rope] -> [num_tokens, hidden_size]
  Tensor operator()(const ExecContext& ctx, const Tensor& x, const Tensor& cos_sin,
                    const PagedKvCache& cache) const;

 private:
  // To the cache, and to the query [num_tokens, num_heads * (rank + rope)].
  void write(const ExecContext& ctx, const MlaCacheWriteParams& params) const;
  // -> values [num_tokens, num_heads * v_head_dim]
  Tensor attend(const ExecContext& ctx, const Tensor& query, const PagedKvCache& cache) const;
};

// down(silu(gate(x)) * up(x))
struct GatedMlp {
  Linear gate_up_proj;  // [2 * intermediate_size, hidden_size]
  Linear down_proj;

  // Who reads the result: anyone, or add_rms_norm only, next (OpTable::linear_for_next).
  enum class Reader : uint8_t { kAny, kAddRmsNorm };
  Tensor operator()(const ExecContext& ctx, const Tensor& x, Reader reader = Reader::kAny) const;
  // residual += mlp(norm(residual)), with the fused ops
  void add_to(const ExecContext& ctx, const Tensor& residual, const RmsNorm& norm) const;
};

}  // namespace atom
