// Pairs sorted by expert: a counting sort by one block, and the copies into that order and back.
// The order of an expert's pairs is not determined; no result depends on it.
#include "kernels/gpu/moe/experts.h"
#include "kernels/gpu/primitives/warp.h"
#include "kernels/gpu/vector_ops/row_io.h"

namespace atom::gpu {
namespace {

constexpr int kPlanThreads = 1024;
constexpr int kRowThreads = 256;
static_assert(kPlanThreads >= kMaxExperts);

constexpr int kPlanWarps = kPlanThreads / kWarpSize;

// Sum of the values of all threads before this one. `totals` has a value a warp.
__device__ uint64_t sum_before(uint64_t value, uint64_t* totals) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  uint64_t before = 0;
  uint64_t total = value;
#pragma unroll
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    const uint64_t other = shuffle_xor_lanes(total, mask);
    before += (lane & mask) != 0 ? other : 0;
    total += other;
  }
  if (lane == 0) {
    totals[warp] = total;
  }
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kPlanWarps; ++w) {
    before += w < warp ? totals[w] : 0;
  }
  return before;
}

__global__ void __launch_bounds__(kPlanThreads)
    plan_kernel(const int32_t* ids, int num_pairs, int num_experts, int tokens_of_task,
                const ExpertPlan plan) {
  __shared__ int counts[kMaxExperts];
  __shared__ uint64_t totals[kPlanWarps];
  const int thread = static_cast<int>(threadIdx.x);
  counts[thread] = 0;
  wait_previous();
  allow_next();
  __syncthreads();
#pragma unroll 4
  for (int pair = thread; pair < num_pairs; pair += kPlanThreads) {
    atomicAdd(&counts[load_fresh(ids + pair)], 1);
  }
  __syncthreads();
  const int count = counts[thread];
  const int tasks = (count + tokens_of_task - 1) / tokens_of_task;
  const uint64_t before =
      sum_before(static_cast<uint64_t>(count) << 32 | static_cast<uint32_t>(tasks), totals);
  const int begin = static_cast<int>(before >> 32);
  const int first = static_cast<int>(before & 0xffffffffU);
  counts[thread] = begin;
  __syncthreads();
  for (int i = 0; i < tasks; ++i) {
    const int done = i * tokens_of_task;
    plan.tasks[first + i] = {.expert = thread,
                             .begin = begin + done,
                             .count = min(count - done, tokens_of_task),
                             .unused = 0};
  }
  if (thread == num_experts - 1) {
    *plan.num_tasks = first + tasks;
  }
#pragma unroll 4
  for (int pair = thread; pair < num_pairs; pair += kPlanThreads) {
    const int row = atomicAdd(&counts[load_fresh(ids + pair)], 1);
    plan.row_of[pair] = row;
    plan.pair_of[row] = pair;
  }
}

// A block a token.
__global__ void __launch_bounds__(kRowThreads)
    spread_kernel(const uint16_t* x, int size, int top_k, const int32_t* row_of, uint16_t* sorted) {
  wait_previous();
  allow_next();
  const auto token = static_cast<int64_t>(blockIdx.x);
  for (int i = static_cast<int>(threadIdx.x) * 8; i < size; i += kRowThreads * 8) {
    const Vec16 value = load16(x + token * size + i);
    for (int k = 0; k < top_k; ++k) {
      const int64_t row = load_fresh(row_of + token * top_k + k);
      store16(sorted + row * size + i, value);
    }
  }
}

template <bool kWide>
__global__ void __launch_bounds__(kRowThreads)
    combine_kernel(const FusedExpertsArgs args, const int32_t* row_of, const uint16_t* rows) {
  wait_previous();
  allow_next();
  const auto token = static_cast<int64_t>(blockIdx.x);
  const int size = static_cast<int>(args.down.rows);
  const int top_k = static_cast<int>(args.top_k);
  for (int i = static_cast<int>(threadIdx.x) * 8; i < size; i += kRowThreads * 8) {
    float totals[8] = {};
    const int64_t at = token * size + i;
    if (args.add) {
      if constexpr (kWide) {
        load8(static_cast<const float*>(args.out) + at, totals);
      } else {
        load8(static_cast<const uint16_t*>(args.out) + at, totals);
      }
    }
    for (int k = 0; k < top_k; ++k) {
      const int64_t pair = token * top_k + k;
      const float weight = load_fresh(args.weights + pair);
      float values[8];
      unpack_bf16(load16(rows + static_cast<int64_t>(load_fresh(row_of + pair)) * size + i),
                  values);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        totals[j] += weight * values[j];
      }
    }
    if constexpr (kWide) {
      store8(static_cast<float*>(args.out) + at, totals);
    } else {
      store8(static_cast<uint16_t*>(args.out) + at, totals);
    }
  }
}

LaunchShape a_block_each(int64_t count, DeviceStream stream) {
  return {.grid = dim3(static_cast<unsigned>(count)),
          .block = dim3(kRowThreads),
          .stream = static_cast<cudaStream_t>(stream)};
}

}  // namespace

DeviceStatus plan_experts(const FusedExpertsArgs& args, const ExpertPlan& plan, int tokens_of_task,
                          DeviceStream stream) {
  return launch_chained(
      plan_kernel,
      {.grid = dim3(1), .block = dim3(kPlanThreads), .stream = static_cast<cudaStream_t>(stream)},
      args.ids, static_cast<int>(args.num_tokens * args.top_k), static_cast<int>(args.num_experts),
      tokens_of_task, plan);
}

DeviceStatus spread_rows(const FusedExpertsArgs& args, const ExpertPlan& plan, uint16_t* sorted,
                         DeviceStream stream) {
  return launch_chained(spread_kernel, a_block_each(args.num_tokens, stream), args.x,
                        static_cast<int>(args.down.rows), static_cast<int>(args.top_k),
                        static_cast<const int32_t*>(plan.row_of), sorted);
}

DeviceStatus combine_rows(const FusedExpertsArgs& args, const ExpertPlan& plan,
                          const uint16_t* rows, DeviceStream stream) {
  return launch_chained(
      args.out_dtype == DType::kF32 ? combine_kernel<true> : combine_kernel<false>,
      a_block_each(args.num_tokens, stream), args, static_cast<const int32_t*>(plan.row_of), rows);
}

}  // namespace atom::gpu
