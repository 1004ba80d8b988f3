#include "kernels/gpu/mla.h"

#include "atom/model_ops/gpu/gpu_ops.h"

namespace atom::gpu {
namespace {

void mla_cache_write_op(const ExecContext& ctx, const MlaCacheWriteParams& params) {
  report_launch("mla_cache_write",
                mla_cache_write({.shape = params.shape,
                                 .q = params.q.data_as<const uint16_t>(),
                                 .latent = params.latent.data_as<const uint16_t>(),
                                 .latent_stride = params.latent.dim(1),
                                 .query = params.query.data_as<uint16_t>(),
                                 .norm = params.norm,
                                 .norm_eps = params.norm_eps,
                                 .cos_sin = params.cos_sin.data_as<const float>(),
                                 .slot_mapping = ctx.attention->slot_mapping,
                                 .cache = params.cache,
                                 .num_tokens = params.q.dim(0)},
                                ctx.stream));
}

void run_attention(const ExecContext& ctx, const MlaAttentionParams& params, bool portable) {
  const int64_t scratch = ctx.arena->mark();
  const Tensor partials = ctx.arena->allocate(DType::kF32, {mla_partial_floats(params.shape)});
  report_launch("mla_attention",
                mla_attention({.shape = params.shape,
                               .query = params.query.data_as<const uint16_t>(),
                               .out = params.out.data_as<uint16_t>(),
                               .scale = params.scale,
                               .cache = params.cache,
                               .metadata = *ctx.attention,
                               .batch_invariant = context_of(ctx).options.deterministic,
                               .portable = portable,
                               .partials = partials.data_as<float>()},
                              ctx.stream));
  ctx.arena->rewind(scratch);
}

void mla_attention_op(const ExecContext& ctx, const MlaAttentionParams& params) {
  run_attention(ctx, params, false);
}

void portable_mla_attention_op(const ExecContext& ctx, const MlaAttentionParams& params) {
  run_attention(ctx, params, true);
}

void linear_heads_op(const ExecContext& ctx, const HeadsWeight& weights,
                     const LinearHeadsParams& params) {
  report_launch("linear_heads",
                linear_heads({.x = params.x.data_as<const uint16_t>(),
                              .weight = static_cast<const uint16_t*>(weights.weight.packed.data()),
                              .out = params.out.data_as<uint16_t>(),
                              .num_tokens = params.x.dim(0),
                              .num_heads = static_cast<int32_t>(weights.num_heads),
                              .in_features = static_cast<int32_t>(weights.in_features),
                              .out_features = static_cast<int32_t>(weights.out_features),
                              .row_stride = weights.row_stride(),
                              .x_stride = params.x_stride,
                              .out_stride = params.out_stride},
                             ctx.stream));
}

}  // namespace

void add_mla_ops(OpTable& table, int level) {
  table.max_latent_rank = kMaxLatentRank;
  table.max_latent_rope = kMaxLatentRope;
  table.mla_cache_write = mla_cache_write_op;
  table.mla_attention = level == 0 ? portable_mla_attention_op : mla_attention_op;
  table.linear_heads = linear_heads_op;
}

}  // namespace atom::gpu
