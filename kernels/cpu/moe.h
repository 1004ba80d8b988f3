// Mixture of experts as the CPU kernels see it: choosing experts, and adding up what they say. The
// experts' products are ordinary linear kernels (atom/model_ops/cpu/moe_ops.cpp). One
// implementation for all instruction sets: this is little work beside the products.
#pragma once

#include <cstdint>

#include "kernels/common/router.h"
#include "kernels/cpu/kernels.h"

namespace atom::cpu {

inline constexpr int64_t kMaxExperts = 1024;
inline constexpr int64_t kMaxExpertsPerToken = 32;

struct RouterArgs {
  const float* logits = nullptr;  // [num_tokens, num_experts]
  int64_t num_experts = 0;
  RouterRule rule;
  // [num_experts] added to the scores while experts are compared, never to the weights; or none
  const float* correction_bias = nullptr;
  int32_t* ids = nullptr;    // [num_tokens, top_k], best first; of equals the lower id
  float* weights = nullptr;  // [num_tokens, top_k]
};
void route(const RouterArgs& args, Range tokens);

// out[t] = (add ? out[t] : 0) + sum over k of weights[t, k] * rows[row_of[t, k]], in the order of
// k.
struct CombineArgs {
  const float* rows = nullptr;      // [num_pairs, size]
  const int32_t* row_of = nullptr;  // [num_tokens, top_k]
  const float* weights = nullptr;   // [num_tokens, top_k]
  int64_t top_k = 0;
  int64_t size = 0;
  bool add = false;
  float* out = nullptr;  // [num_tokens, size]
};
void combine_experts(const CombineArgs& args, Range tokens);

// GPT-OSS: gate = min(gate, limit), up = clamp(up, -limit, limit);
// out = (up + 1) * gate * sigmoid(1.702 * gate). gate_up [num_rows, 2n]: gates, then ups.
void clamped_swiglu(const float* gate_up, float* out, int64_t n, float limit, Range rows);

}  // namespace atom::cpu
