#include "kernels/gpu/attention.h"

#include "atom/model_ops/gpu/gpu_ops.h"
#include "kernels/gpu/portable_attention.h"

namespace atom::gpu {
namespace {

PagedAttentionArgs arguments(const ExecContext& ctx, const PagedAttentionParams& params) {
  BackendContext& context = context_of(ctx);
  return {.q = params.qkv.data_as<const uint16_t>(),
          .q_stride = params.qkv.dim(1),
          .out = params.out.data_as<uint16_t>(),
          .num_heads = static_cast<int32_t>(params.num_heads),
          .num_kv_heads = static_cast<int32_t>(params.num_kv_heads),
          .head_dim = static_cast<int32_t>(params.head_dim),
          .scale = params.scale,
          .sliding_window = static_cast<int32_t>(params.sliding_window),
          .sinks = params.sinks,
          .cache = params.cache,
          .metadata = *ctx.attention,
          .batch_invariant = context.options.deterministic,
          .max_seqs = context.options.max_seqs,
          .workspace = context.attention_workspace.data()};
}

void portable_op(const ExecContext& ctx, const PagedAttentionParams& params) {
  report_launch("paged_attention", portable_attention(arguments(ctx, params), ctx.stream));
}

void paged_attention_op(const ExecContext& ctx, const PagedAttentionParams& params) {
  if (!context_of(ctx).use_split_attention) {
    return portable_op(ctx, params);
  }
  const PagedAttentionArgs args = arguments(ctx, params);
  decode_attention(args, ctx.stream);
  if (ctx.attention->max_query_len > args.max_decode_queries) {
    prefill_attention(args, ctx.stream);
  }
}

void rope_paged_attention_op(const ExecContext& ctx, const QkNormRopeKvWriteParams& rope,
                             const PagedAttentionParams& params) {
  const QkNormRopeKvWriteArgs rope_args = rope_arguments(ctx, rope);
  if (context_of(ctx).use_split_attention && ctx.attention->max_query_len == 1 &&
      rope_args.qkv_scales.rows == nullptr &&
      step_attention(rope_args, arguments(ctx, params), ctx.stream)) {
    return;
  }
  report_launch("qk_norm_rope_kv_write", qk_norm_rope_kv_write(rope_args, ctx.stream));
  ctx.ops->paged_attention(ctx, params);
}

}  // namespace

void add_attention_ops(OpTable& table, int level) {
  table.paged_attention = level == 0 ? portable_op : paged_attention_op;
  if (level > 0) {
    table.rope_paged_attention = rope_paged_attention_op;
  }
}

DeviceStatus prepare_attention_ops(BackendContext& context) {
  const GpuContextOptions& options = context.options;
  context.use_split_attention =
      attention_supports({.num_heads = static_cast<int32_t>(options.num_heads),
                          .num_kv_heads = static_cast<int32_t>(options.num_kv_heads),
                          .head_dim = static_cast<int32_t>(options.head_dim),
                          .cache = {.dtype = options.kv_dtype, .block_size = options.block_size}});
  if (!context.use_split_attention) {
    return nullptr;
  }
  const int64_t nbytes =
      attention_workspace_bytes({.max_seqs = options.max_seqs,
                                 .max_decode_queries = 1,
                                 .num_heads = static_cast<int32_t>(options.num_heads),
                                 .head_dim = static_cast<int32_t>(options.head_dim)});
  auto buffer = Buffer::allocate_device(device_runtime(), nbytes);
  if (!buffer) {
    return "out of memory for attention's workspace";
  }
  context.attention_workspace = std::move(*buffer);
  DeviceStream stream = nullptr;
  if (const DeviceStatus failed = device_runtime().create_stream(&stream)) {
    return failed;
  }
  DeviceStatus status =
      device_runtime().fill_async(context.attention_workspace.data(), 0, nbytes, stream);
  if (status == nullptr) {
    status = device_runtime().synchronize(stream);
  }
  (void)device_runtime().destroy_stream(stream);
  return status;
}

}  // namespace atom::gpu
