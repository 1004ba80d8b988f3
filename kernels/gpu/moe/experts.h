// What the kernels of experts share: tasks, formats of weights, the activation between the two
// products. A task is an expert and some of the pairs (token, choice) that chose it. Device code,
// C++20.
#pragma once

#include "kernels/gpu/moe.h"
#include "kernels/gpu/primitives/fresh.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/mma.h"
#include "kernels/gpu/primitives/types.h"

namespace atom::gpu {

struct ExpertTask {
  int32_t expert;
  int32_t begin;  // of its pairs in the sorted ones
  int32_t count;
  int32_t unused;
};

// The pairs of a step sorted by expert, on the device.
struct ExpertPlan {
  int32_t* row_of = nullptr;   // [num_pairs] where a pair stands among the sorted
  int32_t* pair_of = nullptr;  // [num_pairs] the other way round
  ExpertTask* tasks = nullptr;
  int32_t* num_tasks = nullptr;
};
inline int64_t most_tasks(int64_t num_pairs, int64_t num_experts, int64_t tokens_of_task) {
  const int64_t full = num_pairs / tokens_of_task;
  return full + (num_experts < num_pairs ? num_experts : num_pairs);
}
DeviceStatus plan_experts(const FusedExpertsArgs& args, const ExpertPlan& plan, int tokens_of_task,
                          DeviceStream stream);

// sorted [num_pairs, size] = x[pair / top_k] at the row of every pair.
DeviceStatus spread_rows(const FusedExpertsArgs& args, const ExpertPlan& plan, uint16_t* sorted,
                         DeviceStream stream);
// out[t] (+)= sum over k of weights[t, k] * rows[row_of[t, k]]; rows bf16 [num_pairs, down.rows]
DeviceStatus combine_rows(const FusedExpertsArgs& args, const ExpertPlan& plan,
                          const uint16_t* rows, DeviceStream stream);

// Pairs through the first product (kFirst: with the activation, x to inside [num_pairs,
// intermediate_size]) or the second (inside to rows), in the order of the sorted pairs.
struct ExpertRowsArgs {
  ExpertMatrix weight;
  const uint16_t* x = nullptr;  // bf16 rows of weight.cols
  uint16_t* out = nullptr;
  const int32_t* ids = nullptr;  // [num_tokens, top_k]; where there is no plan
  int32_t num_pairs = 0;
  int32_t top_k = 0;
  ExpertPlan plan;
  bool is_first = false;
  ExpertActivation activation = ExpertActivation::kSiluMul;
  float swiglu_limit = 0.0F;
};
inline constexpr int kPlannedTokens = 16;  // of a task here
DeviceStatus expert_rows(const ExpertRowsArgs& args, DeviceStream stream);
// The second product of up to kFewTokens tokens, with the sum over choices.
DeviceStatus expert_sums(const FusedExpertsArgs& args, const uint16_t* inside, DeviceStream stream);

// All experts of `weight` as bf16.
DeviceStatus expand_experts(const ExpertMatrix& weight, int64_t num_experts, uint16_t* out,
                            DeviceStream stream);

#if ATOM_GPU_CUDA
// The grouped products of Hopper; false where they do not take the shapes.
struct GroupedProductArgs {
  ExpertMatrix weight;
  int64_t num_experts = 0;
  const uint16_t* x = nullptr;  // bf16 [num_pairs, weight.cols], sorted by expert
  int64_t num_pairs = 0;
  ExpertPlan plan;
  int tokens_of_task = 0;
  bool is_first = false;
  ExpertActivation activation = ExpertActivation::kSiluMul;
  float swiglu_limit = 0.0F;
  uint16_t* out = nullptr;  // [num_pairs, rows of weight, half of them if is_first]
};
// 0: none.
int grouped_tokens_of_task(const FusedExpertsArgs& args);
DeviceStatus grouped_product(const GroupedProductArgs& args, DeviceStream stream);
#endif

__device__ __forceinline__ float activate(ExpertActivation activation, float limit, float gate,
                                          float up) {
  if (activation == ExpertActivation::kSiluMul) {
    return gate / (1.0F + expf(-gate)) * up;
  }
  gate = fminf(gate, limit);
  up = fminf(fmaxf(up, -limit), limit);
  return (up + 1.0F) * gate / (1.0F + expf(-1.702F * gate));
}

// 8 values of an e2m1 word as bf16 pairs, times 2^-126, then times `scale` (a pair of powers of
// two).
__device__ __forceinline__ Vec16 e2m1_to_bf16(uint32_t word, uint32_t scale) {
  Vec16 out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t pair = word >> (4 * i);
    const uint32_t raw = (pair << 12 & 0x80008000U) | (pair << 6 & 0x01c001c0U);
#if ATOM_GPU_CUDA
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(out.word[i])
        : "r"(raw), "r"(scale), "r"(0x80008000U));
#else
    out.word[i] = pack_bf16(bf16_low(raw) * bf16_low(scale), bf16_high(raw) * bf16_high(scale));
#endif
  }
  return out;
}
// The factor that makes raw e2m1 bits what a scale byte says, in both halves.
__device__ __forceinline__ uint32_t e2m1_factor(uint32_t byte) {
  const uint32_t exponent = byte + 126U < 254U ? byte + 126U : 254U;
  return exponent << 7 | exponent << 23;
}

// --- formats, as the small products read them ---

// A lane holds 16 bytes of a row at a time, four lanes 64 neighbouring bytes: a chunk. It gives
// kPieces times 8 values as bf16, which lie together in the row. Row: where this lane's row lies,
// and its scales; Scales: those of a group of 128 values. kScalesSums: sums of a group are scaled,
// not values.
struct Bf16Experts {
  static constexpr int kPieces = 1;
  static constexpr int kBitsPerValue = 16;
  static constexpr bool kScalesSums = false;
  struct Row {
    const uint8_t* values = nullptr;
  };
  struct Scales {};
  static __device__ __forceinline__ void find_scales(const ExpertMatrix&, int64_t, int, int, Row&) {
  }
  static __device__ __forceinline__ Scales load_scales(const Row&, int, int, int) { return {}; }
  static __device__ __forceinline__ Vec16 piece(const Vec16& stored, int, const Scales&) {
    return stored;
  }
  static __device__ __forceinline__ float scale_of(const Scales&, int) { return 1.0F; }
};

struct E4m3Experts {
  static constexpr int kPieces = 2;
  static constexpr int kBitsPerValue = 8;
  static constexpr bool kScalesSums = true;
  struct Row {
    const uint8_t* values = nullptr;
    const float* scales = nullptr;  // of the first row of this lane's sums
    int second = 0;                 // from there to the second row's
    int step = 0;                   // from one group's scale to the next one's
  };
  struct Scales {
    float value[2];
  };
  // first: row 0 of the lane's tile in the whole tensor, of which `rows` exist.
  static __device__ __forceinline__ void find_scales(const ExpertMatrix& weight, int64_t first,
                                                     int rows, int lane, Row& row) {
    const auto place = [&](int i) {
      const int64_t at = first + min(ProductTile::sum_row(lane, i), rows - 1);
      return (weight.scale_rows == 8 ? at / 8 : at) * weight.scale_cols;
    };
    row.scales = static_cast<const float*>(weight.scales) + place(0);
    row.second = static_cast<int>(place(1) - place(0));
    row.step = weight.scale_cols > 1 ? 1 : 0;
  }
  static __device__ __forceinline__ Scales load_scales(const Row& row, int k, int size, int) {
    const int group = (k < size ? k : 0) / 128 * row.step;
    return {{row.scales[group], row.scales[group + row.second]}};
  }
  static __device__ __forceinline__ Vec16 piece(const Vec16& stored, int p, const Scales&) {
    const uint2 low = e4m3_to_bf16(stored.word[2 * p]);
    const uint2 high = e4m3_to_bf16(stored.word[2 * p + 1]);
    return Vec16{{low.x, low.y, high.x, high.y}};
  }
  static __device__ __forceinline__ float scale_of(const Scales& scales, int sum) {
    return scales.value[sum % 2];
  }
};

struct Mxfp4Experts {
  static constexpr int kPieces = 4;
  static constexpr int kBitsPerValue = 4;
  static constexpr bool kScalesSums = false;
  struct Row {
    const uint8_t* values = nullptr;
    const uint8_t* scales = nullptr;  // of this lane's row
  };
  using Scales = uint32_t;
  static __device__ __forceinline__ void find_scales(const ExpertMatrix& weight, int64_t first,
                                                     int rows, int lane, Row& row) {
    const int64_t at = first + min(ProductTile::row(lane), rows - 1);
    row.scales = static_cast<const uint8_t*>(weight.scales) + at * (weight.cols / 32);
  }
  static __device__ __forceinline__ Scales load_scales(const Row& row, int k, int size, int lane) {
    const int at = k + ProductTile::quarter(lane) * 32;
    return row.scales[at < size ? at / 32 : 0];
  }
  static __device__ __forceinline__ Vec16 piece(const Vec16& stored, int p, const Scales& scale) {
    return e2m1_to_bf16(stored.word[p], e2m1_factor(scale));
  }
  static __device__ __forceinline__ float scale_of(const Scales&, int) { return 1.0F; }
};

}  // namespace atom::gpu
