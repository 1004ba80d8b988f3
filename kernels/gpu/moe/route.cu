// Choosing experts: a warp holds all scores of a token in registers. Ties go to the lower expert,
// NaN counts as the lowest number, as on the CPU. norm_route puts norm and router product before
// it: every warp computes the logit of one expert for one token, its weights asked for before the
// kernel before this one has ended.
#include "kernels/gpu/moe.h"
#include "kernels/gpu/primitives/fresh.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/primitives/vote.h"
#include "kernels/gpu/primitives/warp.h"

namespace atom::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarpSize;
constexpr float kNever = -__builtin_huge_valf();
constexpr float kLowest = -3.402823466e38F;

constexpr int kNone = 0x7fffffff;

struct Best {
  float value = kNever;
  int id = kNone;
  __device__ __forceinline__ void offer(float other, int other_id) {
    if (other > value || (other == value && other_id < id)) {
      value = other;
      id = other_id;
    }
  }
};

// Lanes without an offer lose against any number.
__device__ __forceinline__ Best best_of_warp(const Best& best) {
  const uint32_t key = best.id == kNone ? 0U : ordered_bits(best.value);
  const uint32_t largest = largest_of_warp(key);
  const uint32_t id = smallest_of_warp(key == largest ? static_cast<uint32_t>(best.id) : kNone);
  return {.value = from_lane(best.value, static_cast<int>(id) % kWarpSize),
          .id = static_cast<int>(id)};
}

// Value j of lane l is expert j * kWarpSize + l.
template <int kEach>
class Chooser {
 public:
  __device__ Chooser(const RouteArgs& args, int64_t token)
      : args_(args),
        token_(token),
        lane_(static_cast<int>(threadIdx.x) % kWarpSize),
        count_(static_cast<int>(args.num_experts)) {}

  __device__ void run() {
    load_scores();
    for (int j = 0; j < kEach; ++j) {
      if (expert(j) < count_) {
        const float bias =
            args_.correction_bias == nullptr ? 0.0F : args_.correction_bias[expert(j)];
        choice_[j] = scores_[j] + bias;
        choice_[j] = choice_[j] == choice_[j] ? choice_[j] : kLowest;
      } else {
        choice_[j] = kNever;
        taken_ |= 1U << j;
      }
    }
    if (args_.rule.num_groups > 1) {
      keep_best_groups();
    }
    choose();
  }

 private:
  __device__ __forceinline__ int expert(int j) const { return j * kWarpSize + lane_; }

  __device__ void load_scores() {
    const float* logits = args_.logits + token_ * args_.logits_stride;
    float largest = kNever;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      // Written by this very kernel, maybe: not through the read-only path.
      scores_[j] = expert(j) < count_ ? load_fresh(logits + expert(j)) : kNever;
      largest = fmaxf(largest, scores_[j]);
    }
    if (args_.rule.scoring == ExpertScoring::kSigmoid) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        scores_[j] = 1.0F / (1.0F + expf(-scores_[j]));
      }
    } else if (args_.rule.scoring == ExpertScoring::kSoftmax) {
      largest = reduce_lanes<MaxOf>(largest);
      float sum = 0.0F;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        scores_[j] = expert(j) < count_ ? expf(scores_[j] - largest) : 0.0F;
        sum += scores_[j];
      }
      sum = reduce_lanes<SumOf>(sum);
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        scores_[j] /= sum;
      }
    }
  }

  __device__ void keep_best_groups() {
    const int num_groups = static_cast<int>(args_.rule.num_groups);
    const int size = count_ / num_groups;
    float mine = kNever;  // lane g holds the score of group g
    for (int g = 0; g < num_groups; ++g) {
      const float best = score_of_group(g, size);
      mine = lane_ == g ? best : mine;
    }
    uint64_t kept = 0;
    bool open = lane_ < num_groups;
    for (int i = 0; i < static_cast<int>(args_.rule.top_groups); ++i) {
      Best best;
      if (open) {
        best.offer(mine, lane_);
      }
      best = best_of_warp(best);
      kept |= uint64_t{1} << best.id % 64;
      open = open && lane_ != best.id;
    }
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (expert(j) < count_ && (kept >> (expert(j) / size) & 1) == 0) {
        choice_[j] = kNever;
      }
    }
  }

  __device__ float score_of_group(int group, int size) const {
    Best best;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (expert(j) / size == group && expert(j) < count_) {
        best.offer(choice_[j], expert(j));
      }
    }
    best = best_of_warp(best);
    if (!args_.rule.groups_by_two_best || size == 1) {
      return best.value;
    }
    Best second;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (expert(j) / size == group && expert(j) < count_ && expert(j) != best.id) {
        second.offer(choice_[j], expert(j));
      }
    }
    return best.value + best_of_warp(second).value;
  }

  __device__ void choose() {
    const RouterRule& rule = args_.rule;
    const int top_k = static_cast<int>(rule.top_k);
    const bool softmax_of_chosen = rule.scoring == ExpertScoring::kSoftmaxTopK;
    int id = 0;  // lane k holds choice k
    float weight = 0.0F;
    float first = 0.0F;
    for (int k = 0; k < top_k; ++k) {
      Best best;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        if ((taken_ >> j & 1) == 0) {
          best.offer(choice_[j], expert(j));
        }
      }
      best = best_of_warp(best);
      float score = 0.0F;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        if (expert(j) == best.id) {
          score = scores_[j];
          taken_ |= 1U << j;
        }
      }
      score = from_lane(score, best.id % kWarpSize);
      first = k == 0 ? score : first;
      if (lane_ == k) {
        id = best.id;
        weight = softmax_of_chosen ? expf(score - first) : score;
      }
    }
    const float sum = reduce_lanes<SumOf>(weight);
    const bool normalize = rule.renormalize || softmax_of_chosen;
    const float factor = (normalize ? 1.0F / fmaxf(sum, 1e-20F) : 1.0F) * rule.scale;
    if (lane_ < top_k) {
      args_.ids[token_ * top_k + lane_] = id;
      args_.weights[token_ * top_k + lane_] = weight * factor;
    }
  }

  const RouteArgs& args_;
  const int64_t token_;
  const int lane_;
  const int count_;
  float scores_[kEach];
  float choice_[kEach];
  uint32_t taken_ = 0;
};

template <int kEach>
__global__ void __launch_bounds__(kThreads) route_kernel(const RouteArgs args) {
  wait_previous();
  allow_next();
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  if (token < args.num_tokens) {
    Chooser<kEach>(args, token).run();
  }
}

// --- with norm and product before it ---

constexpr int kPieces = 8;  // 16-byte pieces of a weight row that a lane holds at a time

// A token's normed row as bf16 in shared memory, and in memory by the blocks of the first experts.
// kHeld pieces of a thread stay in registers between the sum of squares and the scaling, their norm
// weights are there before the wait.
class NormedRow {
 public:
  __device__ NormedRow(const NormRouteArgs& args, int64_t token, uint16_t* shared_x)
      : args_(args),
        pieces_(static_cast<int>(args.hidden_size) / 4),
        row_(args.residual + token * args.hidden_size),
        out_(blockIdx.x == 0 ? args.x + token * args.hidden_size : nullptr),
        shared_x_(shared_x) {}

  __device__ __forceinline__ void prefetch() {
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      weights_[h] = at(h) < pieces_ ? load4(args_.norm_weight, at(h)) : float4{};
    }
  }

  __device__ __forceinline__ void stage(float* sums) {
    float4 held[kHeld];
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      held[h] = at(h) < pieces_ ? load4(row_, at(h)) : float4{};
    }
    float squares = 0.0F;
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      squares += square(held[h]);
    }
#pragma unroll 4
    for (int i = at(kHeld); i < pieces_; i += kThreads) {
      squares += square(load4(row_, i));
    }
    squares = reduce_block<SumOf>(squares, sums);
    const float scale = 1.0F / sqrtf(squares / static_cast<float>(args_.hidden_size) + args_.eps);
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      if (at(h) < pieces_) {
        keep(at(h), held[h], weights_[h], scale);
      }
    }
#pragma unroll 4
    for (int i = at(kHeld); i < pieces_; i += kThreads) {
      keep(i, load4(row_, i), load4(args_.norm_weight, i), scale);
    }
    __syncthreads();
  }

 private:
  static constexpr int kHeld = 3;

  static __device__ __forceinline__ int at(int h) {
    return static_cast<int>(threadIdx.x) + h * kThreads;
  }
  static __device__ __forceinline__ float4 load4(const float* from, int piece) {
    return *reinterpret_cast<const float4*>(from + int64_t{4} * piece);
  }
  static __device__ __forceinline__ float square(const float4& v) {
    return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  __device__ __forceinline__ void keep(int piece, const float4& v, const float4& w, float scale) {
    const uint2 packed = {pack_bf16(v.x * scale * w.x, v.y * scale * w.y),
                          pack_bf16(v.z * scale * w.z, v.w * scale * w.w)};
    *reinterpret_cast<uint2*>(shared_x_ + 4 * piece) = packed;
    if (out_ != nullptr) {
      *reinterpret_cast<uint2*>(out_ + 4 * piece) = packed;
    }
  }

  const NormRouteArgs& args_;
  const int pieces_;
  const float* row_;
  uint16_t* out_;
  uint16_t* shared_x_;
  float4 weights_[kHeld];
};

// A block: eight experts of one token.
template <int kEach>
__global__ void ATOM_LAUNCH_BOUNDS(kThreads, 1) norm_route_kernel(const NormRouteArgs args) {
  extern __shared__ __align__(16) uint8_t memory[];
  __shared__ float sums[kWarps];
  __shared__ bool is_last;
  auto* shared_x = reinterpret_cast<uint16_t*>(memory);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int pieces = static_cast<int>(args.hidden_size) / 8;
  const auto token = static_cast<int64_t>(blockIdx.y);
  const int expert = static_cast<int>(blockIdx.x) * kWarps + warp;
  const bool has_expert = expert < static_cast<int>(args.route.num_experts);
  const uint16_t* row = args.router + (has_expert ? expert : 0) * args.hidden_size;
  Vec16 weights[kPieces];
  const auto load = [&](int first) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int at = first + p * kWarpSize + lane;
      weights[p] = at < pieces ? load16(row + at * 8) : Vec16{};
    }
  };
  NormedRow normed(args, token, shared_x);
  load(0);
  normed.prefetch();
  const float bias = args.bias == nullptr || !has_expert ? 0.0F : args.bias[expert];
  allow_next();
  wait_previous();
  normed.stage(sums);
  float totals[2] = {};
  for (int first = 0; first < pieces; first += kPieces * kWarpSize) {
    if (first > 0) {
      load(first);
    }
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int at = min(first + p * kWarpSize + lane, pieces - 1);
      float w[8];
      float x[8];
      unpack_bf16(weights[p], w);
      unpack_bf16(load16(shared_x + at * 8), x);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        totals[i % 2] += w[i] * x[i];
      }
    }
  }
  const float total = reduce_lanes<SumOf>(totals[0] + totals[1]);
  if (lane == 0 && has_expert) {
    args.logits[token * args.route.logits_stride + expert] = total + bias;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const auto blocks = static_cast<int>(gridDim.x * gridDim.y);
    is_last = atomicAdd(args.counter, 1) == blocks - 1;
    if (is_last) {
      *args.counter = 0;
      __threadfence();
    }
  }
  __syncthreads();
  if (is_last && warp < static_cast<int>(args.route.num_tokens)) {
    Chooser<kEach>(args.route, warp).run();
  }
}

DeviceStatus check(const RouteArgs& args) {
  if (args.num_experts > kMaxExperts || args.rule.top_k > kMaxExpertsPerToken ||
      args.rule.top_k > args.num_experts || args.rule.num_groups > kMaxExpertGroups) {
    return "route: too many experts, choices or groups";
  }
  return nullptr;
}

template <int kEach>
DeviceStatus launch_route(const RouteArgs& args, DeviceStream stream) {
  return launch_chained(
      route_kernel<kEach>,
      {.grid = dim3(static_cast<unsigned>((args.num_tokens + kWarps - 1) / kWarps)),
       .block = dim3(kThreads),
       .stream = static_cast<cudaStream_t>(stream)},
      args);
}

template <int kEach>
DeviceStatus launch_norm_route(const NormRouteArgs& args, DeviceStream stream) {
  const int64_t shared = args.hidden_size * 2;
  constexpr int kMost = ATOM_GPU_HIP ? 63 << 10 : 200 << 10;
  if (shared > kMost) {
    return "norm_route: x does not fit into shared memory";
  }
  const auto kernel = norm_route_kernel<kEach>;
  static const cudaError_t raised = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, kMost);
  if (raised != cudaSuccess) {
    return status_of(raised);
  }
  return launch_chained(
      kernel,
      {.grid = dim3(static_cast<unsigned>((args.route.num_experts + kWarps - 1) / kWarps),
                    static_cast<unsigned>(args.route.num_tokens)),
       .block = dim3(kThreads),
       .shared_bytes = static_cast<unsigned>(shared),
       .stream = static_cast<cudaStream_t>(stream)},
      args);
}

}  // namespace

DeviceStatus route(const RouteArgs& args, DeviceStream stream) {
  if (const DeviceStatus refused = check(args); refused != nullptr || args.num_tokens == 0) {
    return refused;
  }
  return args.num_experts <= 4 * kWarpSize   ? launch_route<4>(args, stream)
         : args.num_experts <= 8 * kWarpSize ? launch_route<8>(args, stream)
                                             : launch_route<32>(args, stream);
}

DeviceStatus norm_route(const NormRouteArgs& args, DeviceStream stream) {
  if (const DeviceStatus refused = check(args.route);
      refused != nullptr || args.route.num_tokens == 0) {
    return refused;
  }
  if (args.route.num_tokens > kFewTokens || args.hidden_size % 8 != 0) {
    return "norm_route: too many tokens";
  }
  const int64_t experts = args.route.num_experts;
  return experts <= 4 * kWarpSize   ? launch_norm_route<4>(args, stream)
         : experts <= 8 * kWarpSize ? launch_norm_route<8>(args, stream)
                                    : launch_norm_route<32>(args, stream);
}

}  // namespace atom::gpu
