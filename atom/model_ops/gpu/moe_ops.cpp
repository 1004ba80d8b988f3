#include "kernels/gpu/moe.h"

#include "atom/model_ops/gpu/gpu_ops.h"

namespace atom::gpu {
namespace {

RouteArgs arguments(const RouterParams& params) {
  return {.logits = params.logits.data_as<const float>(),
          .logits_stride = params.logits.dim(1),
          .num_tokens = params.logits.dim(0),
          .num_experts = params.num_experts,
          .rule = params.rule,
          .correction_bias = params.correction_bias,
          .ids = params.ids.data_as<int32_t>(),
          .weights = params.weights.data_as<float>()};
}

void route_op(const ExecContext& ctx, const RouterParams& params) {
  report_launch("route", route(arguments(params), ctx.stream));
}

void norm_route_op(const ExecContext& ctx, const Tensor& residual, const float* norm_weight,
                   float eps, const LinearWeight& router, const RouterParams& params,
                   const Tensor& x) {
  report_launch("norm_route",
                norm_route({.residual = residual.data_as<const float>(),
                            .norm_weight = norm_weight,
                            .eps = eps,
                            .hidden_size = residual.dim(1),
                            .router = static_cast<const uint16_t*>(router.packed.data()),
                            .bias = static_cast<const float*>(router.bias.data()),
                            .x = x.data_as<uint16_t>(),
                            .logits = params.logits.data_as<float>(),
                            .counter = static_cast<int32_t*>(context_of(ctx).moe_counter.data()),
                            .route = arguments(params)},
                           ctx.stream));
}

ExpertMatrix matrix(const StackedExperts& experts) {
  return {.values = experts.values.data(),
          .dtype = experts.format.dtype,
          .scales = experts.scales.data(),
          .scale_rows = experts.scale_rows,
          .scale_cols = experts.scale_cols,
          .bias = static_cast<const float*>(experts.bias.data()),
          .rows = experts.rows,
          .cols = experts.cols};
}

void fused_experts_op(const ExecContext& ctx, const ExpertsWeight& experts,
                      const FusedExpertsParams& params) {
  const int64_t mark = ctx.arena->mark();
  const int64_t bytes = experts_scratch_bytes(
      params.x.dim(0), params.ids.dim(1), experts.num_experts(), experts.stacked_down.rows,
      experts.stacked_down.cols, experts.stacked_down.format.dtype);
  const Tensor scratch = ctx.arena->allocate(DType::kU8, {bytes});
  report_launch(
      "fused_experts",
      fused_experts({.gate_up = matrix(experts.stacked_gate_up),
                     .down = matrix(experts.stacked_down),
                     .num_experts = experts.num_experts(),
                     .activation = experts.activation == ExpertsWeight::Activation::kClampedSwiglu
                                       ? ExpertActivation::kClampedSwiglu
                                       : ExpertActivation::kSiluMul,
                     .swiglu_limit = experts.swiglu_limit,
                     .x = params.x.data_as<const uint16_t>(),
                     .ids = params.ids.data_as<const int32_t>(),
                     .weights = params.weights.data_as<const float>(),
                     .num_tokens = params.x.dim(0),
                     .top_k = params.ids.dim(1),
                     .out = params.out.data(),
                     .out_dtype = params.out.dtype(),
                     .add = params.add,
                     .invariant = context_of(ctx).options.deterministic,
                     .scratch = scratch.data()},
                    ctx.stream));
  ctx.arena->rewind(mark);
}

}  // namespace

void add_moe_ops(OpTable& table, int level) {
  table.route = route_op;
  table.fused_experts = fused_experts_op;
  if (level > 0) {
    table.norm_route = norm_route_op;
  }
}

DeviceStatus prepare_moe_ops(BackendContext& context) {
  auto counter = Buffer::allocate_device(device_runtime(), sizeof(int32_t));
  if (!counter) {
    return "out of memory for the router's counter";
  }
  context.moe_counter = std::move(*counter);
  DeviceStream stream = nullptr;
  if (const DeviceStatus failed = device_runtime().create_stream(&stream)) {
    return failed;
  }
  DeviceStatus status =
      device_runtime().fill_async(context.moe_counter.data(), 0, sizeof(int32_t), stream);
  if (status == nullptr) {
    status = device_runtime().synchronize(stream);
  }
  (void)device_runtime().destroy_stream(stream);
  return status;
}

}  // namespace atom::gpu
