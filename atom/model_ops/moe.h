// The ops of a mixture of experts: parameters of `route` and `fused_experts` (ops.h). The layer is
// in moe_layer.h.
#pragma once

#include <vector>

#include "atom/core/tensor.h"
#include "atom/model_ops/linear_weight.h"
#include "kernels/common/router.h"

namespace atom {

struct RouterParams {
  RouterRule rule;
  const float* correction_bias = nullptr;  // [num_experts], see cpu::RouterArgs; or none
  Tensor logits;                           // f32 [num_tokens, num_experts]
  Tensor ids;                              // i32 [num_tokens, top_k], best first
  Tensor weights;                          // f32 [num_tokens, top_k]
};

// All experts of a layer. Any weight format; experts of one layer may differ.
struct ExpertsWeight {
  enum class Activation : int32_t {
    kSiluMul,        // silu(gate) * up
    kClampedSwiglu,  // GPT-OSS, see cpu::clamped_swiglu
  };
  std::vector<LinearWeight> gate_up;  // [2 * intermediate_size, hidden_size] each
  std::vector<LinearWeight> down;     // [hidden_size, intermediate_size] each
  Activation activation = Activation::kSiluMul;
  float swiglu_limit = 0;

  int64_t num_experts() const { return static_cast<int64_t>(gate_up.size()); }
};

// out[t] = (add ? out[t] : 0) + sum over k of weights[t, k] * expert ids[t, k] of x[t], the experts
// in the order of k. Every row is computed alike whatever else is in the step.
struct FusedExpertsParams {
  Tensor x;        // [num_tokens, hidden_size]
  Tensor ids;      // i32 [num_tokens, top_k]
  Tensor weights;  // f32 [num_tokens, top_k]
  Tensor out;      // [num_tokens, hidden_size]
  bool add = false;
};

// Tokens that fused_experts takes at a time on the CPU: bounds its scratch.
inline constexpr int64_t kExpertPairs = 4096;

}  // namespace atom
