// The ops of a mixture of experts: parameters of `route` and `fused_experts` (ops.h). The layer is
// in moe_layer.h.
#pragma once

#include <vector>

#include "atom/core/data_format.h"
#include "atom/core/tensor.h"
#include "atom/model_ops/linear_weight.h"
#include "kernels/common/router.h"

namespace atom {

struct RouterParams {
  RouterRule rule;
  int64_t num_experts = 0;
  const float* correction_bias = nullptr;  // [num_experts], see cpu::RouterArgs; or none
  Tensor logits;                           // f32 [num_tokens, num_experts or more]
  Tensor ids;                              // i32 [num_tokens, top_k], best first
  Tensor weights;                          // f32 [num_tokens, top_k]
};

// All experts' matrices of one kind as a device has them: one tensor.
struct StackedExperts {
  int64_t num_experts = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  DataFormat format;  // bf16, e4m3 or e2m1: layouts of ExpertMatrix in kernels/gpu/moe.h
  Buffer values;      // [num_experts, rows, cols]
  Buffer bias;        // f32 [num_experts, rows], empty when the family has none
  Buffer scales;      // empty for bf16
  int32_t scale_rows = 1;
  int32_t scale_cols = 1;
};

// All experts of a layer. On the host any weight format, and experts of one layer may differ.
struct ExpertsWeight {
  enum class Activation : int32_t {
    kSiluMul,        // silu(gate) * up
    kClampedSwiglu,  // GPT-OSS, see cpu::clamped_swiglu
  };
  std::vector<LinearWeight> gate_up;  // [2 * intermediate_size, hidden_size] each
  std::vector<LinearWeight> down;     // [hidden_size, intermediate_size] each
  // Instead of these two on a device (where OpTable::pack_linear is none).
  StackedExperts stacked_gate_up;
  StackedExperts stacked_down;
  Activation activation = Activation::kSiluMul;
  float swiglu_limit = 0;

  int64_t num_experts() const {
    return gate_up.empty() ? stacked_gate_up.num_experts : static_cast<int64_t>(gate_up.size());
  }
};

// out[t] = (add ? out[t] : 0) + sum over k of weights[t, k] * expert ids[t, k] of x[t], the experts
// in the order of k. Every row is computed alike whatever else is in the step (GPUs: see
// kernels/gpu/moe.h).
struct FusedExpertsParams {
  Tensor x;        // [num_tokens, hidden_size]
  Tensor ids;      // i32 [num_tokens, top_k]
  Tensor weights;  // f32 [num_tokens, top_k]
  Tensor out;      // [num_tokens, hidden_size] activation, or residual where `add` is set
  bool add = false;
};

// Tokens that fused_experts takes at a time on the CPU: bounds its scratch.
inline constexpr int64_t kExpertPairs = 4096;

}  // namespace atom
