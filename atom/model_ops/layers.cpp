#include "atom/model_ops/layers.h"

#include <cmath>

namespace atom {

Tensor Linear::operator()(const ExecContext& ctx, const Tensor& x) const {
  Tensor out = ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), weight.out_features});
  ctx.ops->linear(ctx, x, weight, out);
  return out;
}

Tensor RmsNorm::operator()(const ExecContext& ctx, const Tensor& x) const {
  Tensor out = ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), x.dim(1)});
  ctx.ops->rms_norm(ctx, x, static_cast<const float*>(weight.data()), eps, out);
  return out;
}

void RmsNorm::add(const ExecContext& ctx, const Tensor& x, const Tensor& residual,
                  const Tensor& out) const {
  ctx.ops->add_rms_norm(ctx, x, residual, static_cast<const float*>(weight.data()), eps, out);
}

Tensor Embedding::operator()(const ExecContext& ctx, const Tensor& ids) const {
  Tensor out = ctx.arena->allocate(ctx.ops->residual_dtype, {ids.dim(0), table.dim(1)});
  ctx.ops->embedding(ctx, ids, table, out);
  return out;
}

Tensor RotaryEmbedding::operator()(const ExecContext& ctx) const {
  Tensor out = ctx.arena->allocate(
      DType::kF32, {ctx.attention->num_tokens, static_cast<int64_t>(inv_freq.size()) * 2});
  ctx.ops->rope_cos_sin(ctx, inv_freq, out);
  return out;
}

Tensor Attention::operator()(const ExecContext& ctx, const Tensor& x, const Tensor& cos_sin,
                             const PagedKvCache& cache) const {
  Tensor out =
      ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), o_proj.weight.out_features});
  const int64_t scratch = ctx.arena->mark();
  Tensor qkv = qkv_proj(ctx, x);
  ctx.ops->qk_norm_rope_kv_write(ctx, {.qkv = qkv,
                                       .num_heads = num_heads,
                                       .num_kv_heads = num_kv_heads,
                                       .head_dim = head_dim,
                                       .rotary_dim = cos_sin.dim(1),
                                       .cos_sin = cos_sin,
                                       .q_norm = static_cast<const float*>(q_norm.data()),
                                       .k_norm = static_cast<const float*>(k_norm.data()),
                                       .norm_eps = norm_eps,
                                       .cache = cache});
  Tensor heads = ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), num_heads * head_dim});
  ctx.ops->paged_attention(ctx, {.qkv = qkv,
                                 .out = heads,
                                 .num_heads = num_heads,
                                 .num_kv_heads = num_kv_heads,
                                 .head_dim = head_dim,
                                 .scale = 1.0F / std::sqrt(static_cast<float>(head_dim)),
                                 .cache = cache});
  ctx.ops->linear(ctx, heads, o_proj.weight, out);
  ctx.arena->rewind(scratch);
  return out;
}

Tensor GatedMlp::operator()(const ExecContext& ctx, const Tensor& x) const {
  Tensor out =
      ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), down_proj.weight.out_features});
  const int64_t scratch = ctx.arena->mark();
  Tensor gate_up = gate_up_proj(ctx, x);
  Tensor hidden = ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), gate_up.dim(1) / 2});
  ctx.ops->silu_mul(ctx, gate_up, hidden);
  ctx.ops->linear(ctx, hidden, down_proj.weight, out);
  ctx.arena->rewind(scratch);
  return out;
}

}  // namespace atom
