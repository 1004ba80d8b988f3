#include "kernels/gpu/vector_ops.h"

#include <algorithm>

#include "atom/model_ops/gpu/gpu_ops.h"

namespace atom::gpu {
namespace {

// Longest head of the rotation's table.
constexpr int64_t kMaxRotaryHalf = 128;

void embedding_op(const ExecContext& ctx, const Tensor& ids, const Tensor& table,
                  const Tensor& out) {
  report_launch("embedding", embedding({.ids = ids.data_as<const int32_t>(),
                                        .table = table.data_as<const uint16_t>(),
                                        .out = out.data(),
                                        .out_dtype = out.dtype(),
                                        .num_tokens = ids.dim(0),
                                        .vocab_size = table.dim(0),
                                        .hidden_size = table.dim(1)},
                                       ctx.stream));
}

// Where the product that follows wants `out` quantised too; see linear.h.
QuantizedInput quantized(const ExecContext& ctx, const Tensor& out) {
  return quantized_input(context_of(ctx).linear, out.data_as<const uint16_t>(), out.dim(0),
                         out.dim(1));
}

void run_norm(const ExecContext& ctx, const uint16_t* x, const Tensor& residual,
              const float* weight, float eps, const Tensor& out) {
  const QuantizedInput also = quantized(ctx, out);
  report_launch("rms_norm", rms_norm({.x = x,
                                      .x_scales = scales_left_for(ctx, x),
                                      .residual = residual.data(),
                                      .residual_dtype = residual.dtype(),
                                      .weight = weight,
                                      .eps = eps,
                                      .out = out.data_as<uint16_t>(),
                                      .out_fp8 = also.values,
                                      .out_scales = also.scales,
                                      .num_tokens = residual.dim(0),
                                      .hidden_size = residual.dim(1)},
                                     ctx.stream));
}

void rms_norm_op(const ExecContext& ctx, const Tensor& x, const float* weight, float eps,
                 const Tensor& out) {
  run_norm(ctx, nullptr, x, weight, eps, out);
}

void add_rms_norm_op(const ExecContext& ctx, const Tensor& x, const Tensor& residual,
                     const float* weight, float eps, const Tensor& out) {
  run_norm(ctx, x.data_as<const uint16_t>(), residual, weight, eps, out);
}

void silu_mul_op(const ExecContext& ctx, const Tensor& gate_up, const Tensor& out) {
  const QuantizedInput also = quantized(ctx, out);
  report_launch("silu_mul", silu_mul({.gate_up = gate_up.data_as<const uint16_t>(),
                                      .gate_up_scales = scales_left_for(ctx, gate_up.data()),
                                      .out = out.data_as<uint16_t>(),
                                      .out_fp8 = also.values,
                                      .out_scales = also.scales,
                                      .num_tokens = out.dim(0),
                                      .size = out.dim(1)},
                                     ctx.stream));
}

// The frequencies are the model's: they go to the device with its first step, which is not
// captured.
void rope_cos_sin_op(const ExecContext& ctx, std::span<const float> inv_freq, float scale,
                     const Tensor& cos_sin) {
  BackendContext& context = context_of(ctx);
  if (!std::ranges::equal(inv_freq, context.inv_freq)) {
    context.inv_freq.assign(inv_freq.begin(), inv_freq.end());
    report_launch("rope_cos_sin", ctx.runtime->copy_async(
                                      context.inv_freq_device.data(), context.inv_freq.data(),
                                      std::ssize(inv_freq) * int64_t{sizeof(float)}, ctx.stream));
  }
  report_launch("rope_cos_sin",
                rope_cos_sin({.positions = ctx.attention->positions,
                              .inv_freq = static_cast<const float*>(context.inv_freq_device.data()),
                              .cos_sin = cos_sin.data_as<float>(),
                              .scale = scale,
                              .num_tokens = cos_sin.dim(0),
                              .half = std::ssize(inv_freq)},
                             ctx.stream));
}

void qk_norm_rope_kv_write_op(const ExecContext& ctx, const QkNormRopeKvWriteParams& params) {
  report_launch("qk_norm_rope_kv_write",
                qk_norm_rope_kv_write(rope_arguments(ctx, params), ctx.stream));
}

void gather_rows_op(const ExecContext& ctx, const Tensor& x, const Tensor& rows,
                    const Tensor& out) {
  report_launch("gather_rows", gather_rows({.x = x.data_as<const uint16_t>(),
                                            .rows = rows.data_as<const int32_t>(),
                                            .out = out.data_as<uint16_t>(),
                                            .num_tokens = x.dim(0),
                                            .num_rows = rows.dim(0),
                                            .size = x.dim(1)},
                                           ctx.stream));
}

void fill_random_op(const ExecContext& ctx, uint64_t state, float limit, const Tensor& out) {
  report_launch("fill_random",
                fill_random(state, limit, out.data_as<uint16_t>(), out.dim(0), ctx.stream));
}

void quantize_fp8_op(const ExecContext& ctx, const Tensor& weight, const Tensor& out,
                     const Tensor& scales) {
  report_launch("quantize_fp8", quantize_rows({.x = weight.data_as<const uint16_t>(),
                                               .out = out.data_as<uint8_t>(),
                                               .scales = scales.data_as<float>(),
                                               .num_rows = weight.dim(0),
                                               .size = weight.dim(1)},
                                              ctx.stream));
}

}  // namespace

QkNormRopeKvWriteArgs rope_arguments(const ExecContext& ctx,
                                     const QkNormRopeKvWriteParams& params) {
  return {.qkv = params.qkv.data_as<uint16_t>(),
          .qkv_scales = scales_left_for(ctx, params.qkv.data()),
          .num_tokens = params.qkv.dim(0),
          .num_heads = static_cast<int32_t>(params.num_heads),
          .num_kv_heads = static_cast<int32_t>(params.num_kv_heads),
          .head_dim = static_cast<int32_t>(params.head_dim),
          .rotary_dim = static_cast<int32_t>(params.rotary_dim),
          .cos_sin = params.cos_sin.data_as<const float>(),
          .q_norm = params.q_norm,
          .k_norm = params.k_norm,
          .norm_eps = params.norm_eps,
          .slot_mapping = ctx.attention->slot_mapping,
          .cache = params.cache};
}

void add_vector_ops(OpTable& table, int) {
  table.embedding = embedding_op;
  table.rms_norm = rms_norm_op;
  table.add_rms_norm = add_rms_norm_op;
  table.silu_mul = silu_mul_op;
  table.rope_cos_sin = rope_cos_sin_op;
  table.qk_norm_rope_kv_write = qk_norm_rope_kv_write_op;
  table.gather_rows = gather_rows_op;
  table.fill_random = fill_random_op;
  table.quantize_fp8 = quantize_fp8_op;
}

DeviceStatus prepare_vector_ops(BackendContext& context) {
  const GpuContextOptions& model = context.options;
  if (model.hidden_size % 8 != 0 || model.intermediate_size % 8 != 0) {
    return "its kernels take hidden and intermediate sizes that are multiples of 8";
  }
  if (!model.latent_attention &&
      (model.head_dim % 8 != 0 || model.head_dim > 2 * kMaxRotaryHalf)) {
    return "its kernels take head_dim up to 256 in multiples of 8";
  }
  auto buffer = Buffer::allocate_device(device_runtime(), kMaxRotaryHalf * 4);
  if (!buffer) {
    return "out of memory for the rotary frequencies";
  }
  context.inv_freq_device = std::move(*buffer);
  return nullptr;
}

}  // namespace atom::gpu
