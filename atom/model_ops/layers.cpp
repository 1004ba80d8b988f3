#include "atom/model_ops/layers.h"

#include <cmath>

namespace atom {

Tensor Linear::operator()(const ExecContext& ctx, const Tensor& x) const {
  Tensor out = ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), weight.out_features});
  ctx.ops->linear(ctx, x, weight, out);
  return out;
}

void Linear::for_next(const ExecContext& ctx, const Tensor& x, const Tensor& out) const {
  const auto product =
      ctx.ops->linear_for_next != nullptr ? ctx.ops->linear_for_next : ctx.ops->linear;
  product(ctx, x, weight, out);
}

Tensor Linear::for_next(const ExecContext& ctx, const Tensor& x) const {
  Tensor out = ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), weight.out_features});
  for_next(ctx, x, out);
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
  ctx.ops->rope_cos_sin(ctx, inv_freq, scale, out);
  return out;
}

void Attention::attend(const ExecContext& ctx, const Tensor& qkv, const Tensor& cos_sin,
                       const PagedKvCache& kv_cache, const Tensor& heads) const {
  PagedKvCache cache = kv_cache;
  cache.k_scale = k_scale;
  cache.v_scale = v_scale;
  const QkNormRopeKvWriteParams rope{.qkv = qkv,
                                     .num_heads = num_heads,
                                     .num_kv_heads = num_kv_heads,
                                     .head_dim = head_dim,
                                     .rotary_dim = cos_sin.dim(1),
                                     .cos_sin = cos_sin,
                                     .q_norm = static_cast<const float*>(q_norm.data()),
                                     .k_norm = static_cast<const float*>(k_norm.data()),
                                     .norm_eps = norm_eps,
                                     .cache = cache};
  const PagedAttentionParams attention{.qkv = qkv,
                                       .out = heads,
                                       .num_heads = num_heads,
                                       .num_kv_heads = num_kv_heads,
                                       .head_dim = head_dim,
                                       .scale = 1.0F / std::sqrt(static_cast<float>(head_dim)),
                                       .cache = cache,
                                       .sliding_window = sliding_window,
                                       .sinks = static_cast<const float*>(sinks.data())};
  if (ctx.ops->rope_paged_attention != nullptr && !ctx.batch_invariant) {
    return ctx.ops->rope_paged_attention(ctx, rope, attention);
  }
  ctx.ops->qk_norm_rope_kv_write(ctx, rope);
  ctx.ops->paged_attention(ctx, attention);
}

Tensor Attention::operator()(const ExecContext& ctx, const Tensor& x, const Tensor& cos_sin,
                             const PagedKvCache& cache) const {
  const DType dtype = ctx.ops->activation_dtype;
  Tensor out = ctx.arena->allocate(dtype, {x.dim(0), o_proj.weight.out_features});
  const int64_t scratch = ctx.arena->mark();
  const Tensor qkv = qkv_proj.for_next(ctx, x);
  const Tensor heads = ctx.arena->allocate(dtype, {x.dim(0), num_heads * head_dim});
  attend(ctx, qkv, cos_sin, cache, heads);
  o_proj.for_next(ctx, heads, out);
  ctx.arena->rewind(scratch);
  return out;
}

void Attention::add_to(const ExecContext& ctx, const Tensor& residual, const RmsNorm& norm,
                       const Tensor& cos_sin, const PagedKvCache& cache) const {
  const DType dtype = ctx.ops->activation_dtype;
  const int64_t num_tokens = residual.dim(0);
  const int64_t scratch = ctx.arena->mark();
  const Tensor qkv = ctx.arena->allocate(dtype, {num_tokens, qkv_proj.weight.out_features});
  ctx.ops->norm_linear(ctx, residual, static_cast<const float*>(norm.weight.data()), norm.eps,
                       qkv_proj.weight, qkv);
  const Tensor heads = ctx.arena->allocate(dtype, {num_tokens, num_heads * head_dim});
  attend(ctx, qkv, cos_sin, cache, heads);
  ctx.ops->linear_add(ctx, heads, o_proj.weight, residual);
  ctx.arena->rewind(scratch);
}

Tensor GatedMlp::operator()(const ExecContext& ctx, const Tensor& x, Reader reader) const {
  const DType dtype = ctx.ops->activation_dtype;
  Tensor out = ctx.arena->allocate(dtype, {x.dim(0), down_proj.weight.out_features});
  const int64_t scratch = ctx.arena->mark();
  const Tensor gate_up = gate_up_proj.for_next(ctx, x);
  Tensor hidden = ctx.arena->allocate(dtype, {x.dim(0), gate_up.dim(1) / 2});
  ctx.ops->silu_mul(ctx, gate_up, hidden);
  if (reader == Reader::kAddRmsNorm) {
    down_proj.for_next(ctx, hidden, out);
  } else {
    ctx.ops->linear(ctx, hidden, down_proj.weight, out);
  }
  ctx.arena->rewind(scratch);
  return out;
}

void GatedMlp::add_to(const ExecContext& ctx, const Tensor& residual, const RmsNorm& norm) const {
  const int64_t scratch = ctx.arena->mark();
  const Tensor hidden = ctx.arena->allocate(
      ctx.ops->activation_dtype, {residual.dim(0), gate_up_proj.weight.out_features / 2});
  ctx.ops->norm_linear_silu_mul(ctx, residual, static_cast<const float*>(norm.weight.data()),
                                norm.eps, gate_up_proj.weight, hidden);
  ctx.ops->linear_add(ctx, hidden, down_proj.weight, residual);
  ctx.arena->rewind(scratch);
}

}  // namespace atom
