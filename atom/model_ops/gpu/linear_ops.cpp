#include "kernels/gpu/linear.h"

#include <algorithm>

#include "atom/model_ops/gpu/gpu_ops.h"

namespace atom::gpu {
namespace {

void linear_op(const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
               const Tensor& out) {
  report_launch("linear", linear(context_of(ctx).linear,
                                 {.x = x.data_as<const uint16_t>(),
                                  .weight = weight.packed.data(),
                                  .weight_dtype = weight.segments[0].format.dtype,
                                  .scales = static_cast<const float*>(weight.scales.data()),
                                  .bias = static_cast<const float*>(weight.bias.data()),
                                  .num_tokens = x.dim(0),
                                  .out_features = weight.out_features,
                                  .in_features = weight.in_features,
                                  .out = out.data(),
                                  .out_dtype = out.dtype()},
                                 ctx.stream));
}

}  // namespace

void add_linear_ops(OpTable& table, int) { table.linear = linear_op; }

DeviceStatus prepare_linear_ops(BackendContext& context) {
  const GpuContextOptions& options = context.options;
  const int64_t widest = std::max(
      {options.hidden_size, options.intermediate_size, options.num_heads * options.head_dim});
  return create_linear_context({.invariant = options.deterministic,
                                .e4m3 = options.fp8_weights,
                                .max_tokens = options.max_tokens,
                                .max_in_features = widest},
                               &context.linear);
}

}  // namespace atom::gpu
