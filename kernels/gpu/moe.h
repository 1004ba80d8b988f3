// Mixture of experts on the device: choosing experts, and the experts' products. Weights of all
// experts of a layer are one tensor [num_experts, rows, cols]. Nothing is read back and nothing
// waits: which experts have tokens is known to the device only, so that a step can be captured.
//
// Up to kFewTokens tokens: two kernels that read the rows of the chosen experts once and nothing
// else (moe/expert_rows.h, expert_sums.h). More: pairs (token, choice) are sorted by expert and go
// through grouped products, on Hopper sm90/grouped_experts.cu, elsewhere the first of those two
// kernels; bf16 weights go there from half as many tokens on. Weights that are not bf16 go there
// only where an expert has many tokens, expanded to bf16 first.
//
// Equal results: a token's result is summed in an order that depends on the shapes only, within one
// of these ways; between them it differs by rounding. With `invariant` every number of tokens takes
// one of them. C++20.
#pragma once

#include <cstdint>

#include "kernels/common/device_runtime.h"
#include "kernels/common/dtype.h"
#include "kernels/common/router.h"
#include "kernels/gpu/linear_layout.h"

namespace atom::gpu {

inline constexpr int64_t kMaxExperts = 1024;
inline constexpr int64_t kMaxExpertsPerToken = 32;
inline constexpr int64_t kMaxExpertGroups = 32;

// Rules and meaning as cpu::RouterArgs.
struct RouteArgs {
  const float* logits = nullptr;  // [num_tokens, logits_stride]
  int64_t logits_stride = 0;
  int64_t num_tokens = 0;
  int64_t num_experts = 0;
  RouterRule rule;
  const float* correction_bias = nullptr;  // [num_experts] or none
  int32_t* ids = nullptr;                  // [num_tokens, top_k], best first
  float* weights = nullptr;                // [num_tokens, top_k]
};
DeviceStatus route(const RouteArgs& args, DeviceStream stream);

// x = rms_norm(residual), logits = x . router^T + bias, then route: one kernel for up to kFewTokens
// tokens. The last block to end chooses.
struct NormRouteArgs {
  const float* residual = nullptr;     // [num_tokens, hidden_size]
  const float* norm_weight = nullptr;  // [hidden_size]
  float eps = 0.0F;
  int64_t hidden_size = 0;           // a multiple of 8
  const uint16_t* router = nullptr;  // bf16 [num_experts, hidden_size]
  const float* bias = nullptr;       // [num_experts] or none
  uint16_t* x = nullptr;             // bf16 [num_tokens, hidden_size]
  float* logits = nullptr;           // scratch: [num_tokens, route.logits_stride]
  int32_t* counter = nullptr;        // zero, and zero again afterwards
  RouteArgs route;
};
DeviceStatus norm_route(const NormRouteArgs& args, DeviceStream stream);

// All experts' matrices of one kind: bf16, e4m3 (value times scale), or e2m1 with a power of two
// for every 32 values (MXFP4), of which eight values k, k + 1 ... k + 7 lie in one word in the
// order k, k + 2, k + 4, k + 6, k + 1, k + 3, k + 5, k + 7 from the lowest bits on
// (pack_expert_word).
struct ExpertMatrix {
  const void* values = nullptr;  // [num_experts, rows, cols], 16-byte aligned
  DType dtype = DType::kBF16;
  // e4m3: f32 [num_experts, rows / scale_rows, scale_cols], for 1 or 8 rows and all columns
  // (scale_cols 1) or 128. e2m1: e8m0 [num_experts, rows, cols / 32], at most 128 (a scale of 2).
  const void* scales = nullptr;
  int32_t scale_rows = 1;
  int32_t scale_cols = 1;
  const float* bias = nullptr;  // [num_experts, rows] or none
  int64_t rows = 0;
  int64_t cols = 0;  // a multiple of 8, of 16 for e4m3, of 32 for e2m1
};

// A word of eight e2m1 values as checkpoints have it (value i in bits 4 i to 4 i + 3) in the order
// above.
constexpr uint32_t pack_expert_word(uint32_t stored) { return pack_nibbles(stored); }

enum class ExpertActivation : int32_t {
  kSiluMul,        // silu(gate) * up
  kClampedSwiglu,  // see cpu::clamped_swiglu
};

struct FusedExpertsArgs {
  ExpertMatrix gate_up;  // rows of gate, then of up
  ExpertMatrix down;
  int64_t num_experts = 0;
  ExpertActivation activation = ExpertActivation::kSiluMul;
  float swiglu_limit = 0.0F;
  const uint16_t* x = nullptr;     // bf16 [num_tokens, down.rows]
  const int32_t* ids = nullptr;    // [num_tokens, top_k], different ones of a token
  const float* weights = nullptr;  // [num_tokens, top_k]
  int64_t num_tokens = 0;
  int64_t top_k = 0;
  // out[t] = (add ? out[t] : 0) + sum over k of weights[t, k] * expert(x[t]), in the order of k
  void* out = nullptr;             // [num_tokens, down.rows]
  DType out_dtype = DType::kBF16;  // or f32
  bool add = false;
  bool invariant = false;
  void* scratch = nullptr;  // experts_scratch_bytes
};
// `dtype`: of the weights; others than bf16 are expanded for steps of very many tokens.
int64_t experts_scratch_bytes(int64_t num_tokens, int64_t top_k, int64_t num_experts,
                              int64_t hidden_size, int64_t intermediate_size,
                              DType dtype = DType::kBF16);
DeviceStatus fused_experts(const FusedExpertsArgs& args, DeviceStream stream);

inline constexpr int64_t kFewTokens = 8;

}  // namespace atom::gpu
