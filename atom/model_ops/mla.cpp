// The layer of latent attention; what its ops compute is in ops.h.
#include "atom/model_ops/layers.h"

namespace atom {

Tensor MlaAttention::project_queries(const ExecContext& ctx, const Tensor& x) const {
  if (!q_a_proj.weight.defined()) {
    return q_proj(ctx, x);
  }
  return q_proj(ctx, q_a_layernorm(ctx, q_a_proj(ctx, x)));
}

Tensor MlaAttention::operator()(const ExecContext& ctx, const Tensor& x, const Tensor& cos_sin,
                                const PagedKvCache& cache) const {
  const DType dtype = ctx.ops->activation_dtype;
  const int64_t num_tokens = x.dim(0);
  const int64_t row = shape.rank + shape.rope;
  const int64_t head = shape.nope + shape.rope;
  Tensor out = ctx.arena->allocate(dtype, {num_tokens, o_proj.weight.out_features});
  const int64_t scratch = ctx.arena->mark();
  const Tensor latent = kv_a_proj(ctx, x);
  const Tensor query = ctx.arena->allocate(dtype, {num_tokens, shape.num_heads * row});
  const int64_t projected = ctx.arena->mark();
  const Tensor q = project_queries(ctx, x);
  ctx.ops->mla_cache_write(ctx, {.shape = shape,
                                 .q = q,
                                 .latent = latent,
                                 .query = query,
                                 .norm = static_cast<const float*>(kv_a_layernorm.weight.data()),
                                 .norm_eps = kv_a_layernorm.eps,
                                 .cos_sin = cos_sin,
                                 .cache = cache});
  ctx.ops->linear_heads(ctx, key_up, {.x = q, .out = query, .x_stride = head, .out_stride = row});
  ctx.arena->rewind(projected);
  const Tensor latents = ctx.arena->allocate(dtype, {num_tokens, shape.num_heads * shape.rank});
  ctx.ops->mla_attention(
      ctx, {.shape = shape, .query = query, .out = latents, .scale = scale, .cache = cache});
  const Tensor heads = ctx.arena->allocate(dtype, {num_tokens, shape.num_heads * v_head_dim});
  ctx.ops->linear_heads(
      ctx, value_up,
      {.x = latents, .out = heads, .x_stride = shape.rank, .out_stride = v_head_dim});
  ctx.ops->linear(ctx, heads, o_proj.weight, out);
  ctx.arena->rewind(scratch);
  return out;
}

}  // namespace atom
