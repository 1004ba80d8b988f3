#include "atom/model_ops/moe_layer.h"

namespace atom {

RouterParams MoeMlp::routing(const ExecContext& ctx, int64_t num_tokens) const {
  return {.rule = rule,
          .num_experts = experts.num_experts(),
          .correction_bias = static_cast<const float*>(correction_bias.data()),
          .logits = ctx.arena->allocate(DType::kF32, {num_tokens, router.weight.out_features}),
          .ids = ctx.arena->allocate(DType::kI32, {num_tokens, rule.top_k}),
          .weights = ctx.arena->allocate(DType::kF32, {num_tokens, rule.top_k})};
}

Tensor MoeMlp::operator()(const ExecContext& ctx, const Tensor& x) const {
  const bool shared = shared_experts.gate_up_proj.weight.defined();
  // First the choice: on a device, weights of the shared experts are on their way meanwhile.
  const RouterParams choice = routing(ctx, x.dim(0));
  ctx.ops->linear(ctx, x, router.weight, choice.logits);
  ctx.ops->route(ctx, choice);
  Tensor out = shared ? shared_experts(ctx, x)
                      : ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), x.dim(1)});
  ctx.ops->fused_experts(
      ctx, experts,
      {.x = x, .ids = choice.ids, .weights = choice.weights, .out = out, .add = shared});
  return out;
}

void MoeMlp::add_to(const ExecContext& ctx, const Tensor& residual, const RmsNorm& norm) const {
  const DType dtype = ctx.ops->activation_dtype;
  const auto* norm_weight = static_cast<const float*>(norm.weight.data());
  const int64_t scratch = ctx.arena->mark();
  const Tensor x = ctx.arena->allocate(dtype, {residual.dim(0), residual.dim(1)});
  const RouterParams choice = routing(ctx, residual.dim(0));
  ctx.ops->norm_route(ctx, residual, norm_weight, norm.eps, router.weight, choice, x);
  Tensor hidden;  // of the shared experts: computed before the residual changes
  if (shared_experts.gate_up_proj.weight.defined()) {
    const LinearWeight& gate_up = shared_experts.gate_up_proj.weight;
    hidden = ctx.arena->allocate(dtype, {residual.dim(0), gate_up.out_features / 2});
    ctx.ops->norm_linear_silu_mul(ctx, residual, norm_weight, norm.eps, gate_up, hidden);
  }
  ctx.ops->fused_experts(
      ctx, experts,
      {.x = x, .ids = choice.ids, .weights = choice.weights, .out = residual, .add = true});
  if (hidden.defined()) {
    ctx.ops->linear_add(ctx, hidden, shared_experts.down_proj.weight, residual);
  }
  ctx.arena->rewind(scratch);
}

}  // namespace atom
