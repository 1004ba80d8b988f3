#include "kernels/gpu/linear.h"

#include <algorithm>

#include "atom/model_ops/gpu/gpu_ops.h"

namespace atom::gpu {
namespace {

// Everything but what comes in.
LinearArgs arguments(const LinearWeight& weight, const Tensor& out) {
  const DataFormat& format = weight.segments[0].format;
  return {.weight = weight.packed.data(),
          .weight_dtype = format.dtype,
          .has_zeros = format.has_zeros,
          .scale_values = static_cast<int16_t>(std::max<int64_t>(0, format.block_k)),
          .scales = static_cast<const float*>(weight.scales.data()),
          .bias = static_cast<const float*>(weight.bias.data()),
          .num_tokens = out.dim(0),
          .out_features = weight.out_features,
          .in_features = weight.in_features,
          .out = out.data(),
          .out_dtype = out.dtype()};
}

void run(const ExecContext& ctx, const LinearArgs& args) {
  context_of(ctx).unscaled = args.left_scales != nullptr ? args.out : nullptr;
  report_launch("linear", linear(context_of(ctx).linear, args, ctx.stream));
}

void linear_op(const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
               const Tensor& out) {
  LinearArgs args = arguments(weight, out);
  args.x = x.data_as<const uint16_t>();
  run(ctx, args);
}

void linear_for_next_op(const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                        const Tensor& out) {
  LinearArgs args = arguments(weight, out);
  args.x = x.data_as<const uint16_t>();
  args.left_scales = &context_of(ctx).left_scales;
  run(ctx, args);
}

void linear_add_op(const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                   const Tensor& residual) {
  LinearArgs args = arguments(weight, residual);
  args.x = x.data_as<const uint16_t>();
  args.epilogue = LinearEpilogue::kAddResidual;
  run(ctx, args);
}

void run_normed(const ExecContext& ctx, const Tensor& residual, const float* norm_weight, float eps,
                LinearArgs args) {
  args.norm_input = residual.data_as<const float>();
  args.norm_weight = norm_weight;
  args.norm_eps = eps;
  run(ctx, args);
}

void norm_linear_op(const ExecContext& ctx, const Tensor& residual, const float* norm_weight,
                    float eps, const LinearWeight& weight, const Tensor& out) {
  run_normed(ctx, residual, norm_weight, eps, arguments(weight, out));
}

void norm_linear_silu_mul_op(const ExecContext& ctx, const Tensor& residual,
                             const float* norm_weight, float eps, const LinearWeight& weight,
                             const Tensor& out) {
  LinearArgs args = arguments(weight, out);
  args.epilogue = LinearEpilogue::kSiluMul;
  run_normed(ctx, residual, norm_weight, eps, args);
}

}  // namespace

void add_linear_ops(OpTable& table, int level) {
  table.linear = linear_op;
  table.reads_packed_linear = true;
  if (level > 0) {
    table.max_fused_tokens = kNormTokens;
    table.linear_for_next = linear_for_next_op;
    table.norm_linear = norm_linear_op;
    table.norm_linear_silu_mul = norm_linear_silu_mul_op;
    table.linear_add = linear_add_op;
  }
}

DeviceStatus prepare_linear_ops(BackendContext& context) {
  const GpuContextOptions& options = context.options;
  const int64_t widest = std::max(
      {options.hidden_size, options.intermediate_size, options.num_heads * options.head_dim});
  return create_linear_context({.invariant = options.deterministic,
                                .e4m3 = options.fp8_weights,
                                .packed = options.packed_weights,
                                .max_tokens = options.max_tokens,
                                .max_in_features = widest},
                               &context.linear);
}

}  // namespace atom::gpu
