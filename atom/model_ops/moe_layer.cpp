#include "atom/model_ops/moe_layer.h"

namespace atom {

Tensor MoeMlp::operator()(const ExecContext& ctx, const Tensor& x) const {
  const bool shared = shared_experts.gate_up_proj.weight.defined();
  Tensor out = shared ? shared_experts(ctx, x)
                      : ctx.arena->allocate(ctx.ops->activation_dtype, {x.dim(0), x.dim(1)});
  const int64_t scratch = ctx.arena->mark();
  const Tensor logits = ctx.arena->allocate(DType::kF32, {x.dim(0), router.weight.out_features});
  ctx.ops->linear(ctx, x, router.weight, logits);
  const Tensor ids = ctx.arena->allocate(DType::kI32, {x.dim(0), rule.top_k});
  const Tensor weights = ctx.arena->allocate(DType::kF32, {x.dim(0), rule.top_k});
  ctx.ops->route(ctx, {.rule = rule,
                       .correction_bias = static_cast<const float*>(correction_bias.data()),
                       .logits = logits,
                       .ids = ids,
                       .weights = weights});
  ctx.ops->fused_experts(ctx, experts,
                         {.x = x, .ids = ids, .weights = weights, .out = out, .add = shared});
  ctx.arena->rewind(scratch);
  return out;
}

}  // namespace atom
