// The layer of latent attention; what its ops compute is in ops.h.
#include "atom/model_ops/layers.h"

namespace atom {

void MlaAttention::write(const ExecContext& ctx, const MlaCacheWriteParams& params) const {
  if (ctx.ops->mla_queries != nullptr) {
    return ctx.ops->mla_queries(ctx, params, key_up);
  }
  ctx.ops->mla_cache_write(ctx, params);
  ctx.ops->linear_heads(ctx, key_up,
                        {.x = params.q,
                         .out = params.query,
                         .x_stride = shape.nope + shape.rope,
                         .out_stride = shape.rank + shape.rope});
}

Tensor MlaAttention::attend(const ExecContext& ctx, const Tensor& query,
                            const PagedKvCache& cache) const {
  const DType dtype = ctx.ops->activation_dtype;
  const int64_t num_tokens = query.dim(0);
  const Tensor values = ctx.arena->allocate(dtype, {num_tokens, shape.num_heads * v_head_dim});
  const int64_t scratch = ctx.arena->mark();
  const Tensor latents = ctx.arena->allocate(dtype, {num_tokens, shape.num_heads * shape.rank});
  const MlaAttentionParams params{
      .shape = shape, .query = query, .out = latents, .scale = scale, .cache = cache};
  if (ctx.ops->mla_values != nullptr && !ctx.batch_invariant) {
    ctx.ops->mla_values(ctx, params, value_up, values);
  } else {
    ctx.ops->mla_attention(ctx, params);
    ctx.ops->linear_heads(
        ctx, value_up,
        {.x = latents, .out = values, .x_stride = shape.rank, .out_stride = v_head_dim});
  }
  ctx.arena->rewind(scratch);
  return values;
}

Tensor MlaAttention::operator()(const ExecContext& ctx, const Tensor& x, const Tensor& cos_sin,
                                const PagedKvCache& cache) const {
  const DType dtype = ctx.ops->activation_dtype;
  const int64_t row = shape.rank + shape.rope;
  Tensor out = ctx.arena->allocate(dtype, {x.dim(0), o_proj.weight.out_features});
  const int64_t scratch = ctx.arena->mark();
  const Tensor latent = kv_a_proj(ctx, x);
  const Tensor query = ctx.arena->allocate(dtype, {x.dim(0), shape.num_heads * row});
  const int64_t projected = ctx.arena->mark();
  const Tensor q = q_a_proj.weight.defined() ? q_proj(ctx, q_a_layernorm(ctx, q_a_proj(ctx, x)))
                                             : q_proj(ctx, x);
  write(ctx, {.shape = shape,
              .q = q,
              .latent = latent,
              .query = query,
              .norm = static_cast<const float*>(kv_a_layernorm.weight.data()),
              .norm_eps = kv_a_layernorm.eps,
              .cos_sin = cos_sin,
              .cache = cache});
  ctx.arena->rewind(projected);
  ctx.ops->linear(ctx, attend(ctx, query, cache), o_proj.weight, out);
  ctx.arena->rewind(scratch);
  return out;
}

}  // namespace atom
