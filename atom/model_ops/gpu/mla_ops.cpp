#include "kernels/gpu/mla.h"

#include "atom/model_ops/gpu/gpu_ops.h"

namespace atom::gpu {
namespace {

MlaCacheWriteArgs arguments(const ExecContext& ctx, const MlaCacheWriteParams& params) {
  return {.shape = params.shape,
          .q = params.q.data_as<const uint16_t>(),
          .latent = params.latent.data_as<const uint16_t>(),
          .latent_stride = params.latent.dim(1),
          .query = params.query.data_as<uint16_t>(),
          .norm = params.norm,
          .norm_eps = params.norm_eps,
          .cos_sin = params.cos_sin.data_as<const float>(),
          .slot_mapping = ctx.attention->slot_mapping,
          .cache = params.cache,
          .num_tokens = params.q.dim(0)};
}

LinearHeadsArgs arguments(const HeadsWeight& weights, const LinearHeadsParams& params) {
  return {.x = params.x.data_as<const uint16_t>(),
          .weight = static_cast<const uint16_t*>(weights.weight.packed.data()),
          .out = params.out.data_as<uint16_t>(),
          .num_tokens = params.x.dim(0),
          .num_heads = static_cast<int32_t>(weights.num_heads),
          .in_features = static_cast<int32_t>(weights.in_features),
          .out_features = static_cast<int32_t>(weights.out_features),
          .row_stride = weights.row_stride(),
          .x_stride = params.x_stride,
          .out_stride = params.out_stride};
}

void mla_cache_write_op(const ExecContext& ctx, const MlaCacheWriteParams& params) {
  report_launch("mla_cache_write", mla_cache_write(arguments(ctx, params), ctx.stream));
}

void mla_queries_op(const ExecContext& ctx, const MlaCacheWriteParams& params,
                    const HeadsWeight& key_up) {
  const MlaShape& shape = params.shape;
  const LinearHeadsArgs product = arguments(key_up, {.x = params.q,
                                                     .out = params.query,
                                                     .x_stride = shape.nope + shape.rope,
                                                     .out_stride = shape.rank + shape.rope});
  report_launch("mla_queries", mla_queries(arguments(ctx, params), product, ctx.stream));
}

// value_up: nullptr, or the product that follows.
void run_attention(const ExecContext& ctx, const MlaAttentionParams& params, bool portable,
                   const LinearHeadsArgs* value_up) {
  const int64_t scratch = ctx.arena->mark();
  const Tensor partials = ctx.arena->allocate(DType::kF32, {mla_partial_floats(params.shape)});
  const MlaAttentionArgs args{.shape = params.shape,
                              .query = params.query.data_as<const uint16_t>(),
                              .out = params.out.data_as<uint16_t>(),
                              .scale = params.scale,
                              .cache = params.cache,
                              .metadata = *ctx.attention,
                              .batch_invariant = context_of(ctx).options.deterministic,
                              .portable = portable,
                              .partials = partials.data_as<float>()};
  report_launch("mla_attention", value_up == nullptr
                                     ? mla_attention(args, ctx.stream)
                                     : mla_attention_values(args, *value_up, ctx.stream));
  ctx.arena->rewind(scratch);
}

void mla_attention_op(const ExecContext& ctx, const MlaAttentionParams& params) {
  run_attention(ctx, params, false, nullptr);
}

void portable_mla_attention_op(const ExecContext& ctx, const MlaAttentionParams& params) {
  run_attention(ctx, params, true, nullptr);
}

void mla_values_op(const ExecContext& ctx, const MlaAttentionParams& params,
                   const HeadsWeight& value_up, const Tensor& values) {
  const LinearHeadsArgs product = arguments(value_up, {.x = params.out,
                                                       .out = values,
                                                       .x_stride = params.shape.rank,
                                                       .out_stride = value_up.out_features});
  run_attention(ctx, params, false, &product);
}

void linear_heads_op(const ExecContext& ctx, const HeadsWeight& weights,
                     const LinearHeadsParams& params) {
  report_launch("linear_heads", linear_heads(arguments(weights, params), ctx.stream));
}

}  // namespace

void add_mla_ops(OpTable& table, int level) {
  table.max_latent_rank = kMaxLatentRank;
  table.max_latent_rope = kMaxLatentRope;
  table.mla_cache_write = mla_cache_write_op;
  table.mla_attention = level == 0 ? portable_mla_attention_op : mla_attention_op;
  table.linear_heads = linear_heads_op;
  if (level > 0) {
    table.mla_queries = mla_queries_op;
    table.mla_values = mla_values_op;
  }
}

}  // namespace atom::gpu
