// MoeMlp: the feed-forward layer of a mixture of experts: router, routed experts, shared experts.
// Exists once; families differ in its rule (RouterRule) and in the names of its weights.
#pragma once

#include "atom/model_ops/layers.h"
#include "atom/model_ops/moe.h"

namespace atom {

struct MoeMlp {
  RouterRule rule;
  Linear router;           // [num_experts, hidden_size]
  Buffer correction_bias;  // f32 [num_experts], empty when the family has none
  ExpertsWeight experts;
  GatedMlp shared_experts;  // undefined when the model has none
  bool enabled = false;     // this layer has experts at all

  // x [num_tokens, hidden_size] -> the same shape
  Tensor operator()(const ExecContext& ctx, const Tensor& x) const;
  // residual += experts(norm(residual)), with the fused ops
  void add_to(const ExecContext& ctx, const Tensor& residual, const RmsNorm& norm) const;

 private:
  // Where routing x takes and puts everything; logits, ids and weights are allocated.
  RouterParams routing(const ExecContext& ctx, int64_t num_tokens) const;
};

}  // namespace atom
