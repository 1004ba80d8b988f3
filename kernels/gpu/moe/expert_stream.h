// What the small products of experts share: the tasks of few tokens, and streams of weight rows
// through the matrix cores (primitives/mma.h: a lane's 16-byte load is its fragment). Weights are
// read once and stay out of shared memory; x comes through the caches. Device code, C++20.
#pragma once

#include "kernels/gpu/moe/experts.h"

namespace atom::gpu {

inline constexpr int kExpertWarps = 8;
inline constexpr int kExpertThreads = kExpertWarps * kWarpSize;
inline constexpr int kExpertGroup = 128;  // values of k; fixes the order of sums
inline constexpr int kMostFewPairs = kFewTokens * kMaxExpertsPerToken;

// The tasks of up to kFewTokens tokens, found by every block for itself: a task is named by its
// first pair.
struct FewTasks {
  alignas(16) int16_t ids[kMostFewPairs];
  alignas(16) uint8_t is_first[kMostFewPairs];  // 1 for the first pair of its expert
  int16_t first[kMostFewPairs];                 // of a task
  int16_t counts[kMostFewPairs];                // by first pair
  int16_t pairs[kMostFewPairs][kFewTokens];     // by first pair

  __device__ __forceinline__ int expert(int task) const { return ids[first[task]]; }
  __device__ __forceinline__ int count(int task) const { return counts[first[task]]; }
  __device__ __forceinline__ int pair(int task, int j) const { return pairs[first[task]][j]; }
};

// By all threads of a block; tasks in the order of their first pairs. Every expert has at most one
// pair of a token. Ends with a barrier.
__device__ inline int find_few_tasks(const int32_t* ids, int num_pairs, FewTasks& tasks) {
  __shared__ int num_tasks;
  const int pair = static_cast<int>(threadIdx.x);
  const int padded = (num_pairs + 15) / 16 * 16;
  if (pair < padded) {
    tasks.ids[pair] = static_cast<int16_t>(pair < num_pairs ? load_fresh(ids + pair) : -1);
    tasks.is_first[pair] = 0;
  }
  __syncthreads();
  bool is_first = pair < num_pairs;
  if (is_first) {
    const uint32_t mine = static_cast<uint16_t>(tasks.ids[pair]);
    int count = 0;
    for (int begin = 0; begin < num_pairs && is_first; begin += 8) {
      const Vec16 eight = load16(tasks.ids + begin);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t id = i % 2 == 0 ? eight.word[i / 2] & 0xffffU : eight.word[i / 2] >> 16;
        if (id == mine) {
          is_first = is_first && begin + i >= pair;
          if (is_first && count < kFewTokens) {
            tasks.pairs[pair][count++] = static_cast<int16_t>(begin + i);
          }
        }
      }
    }
    tasks.counts[pair] = static_cast<int16_t>(count);
    tasks.is_first[pair] = is_first ? 1 : 0;
  }
  __syncthreads();
  if (is_first || pair == num_pairs - 1) {
    int task = 0;
    for (int begin = 0; begin < pair; begin += 4) {
      const uint32_t flags = *reinterpret_cast<const uint32_t*>(tasks.is_first + begin);
      const int left = pair - begin;
      task += __popc(left >= 4 ? flags : flags & ((1U << (8 * left)) - 1U));
    }
    if (is_first) {
      tasks.first[task] = static_cast<int16_t>(pair);
    }
    if (pair == num_pairs - 1) {
      num_tasks = task + (is_first ? 1 : 0);
    }
  }
  __syncthreads();
  return num_tasks;
}

template <class F, int kTiles>
class ExpertLoads {
 public:
  static constexpr int kChunkValues = 32 * F::kPieces;
  static constexpr int kChunks = kExpertGroup / kChunkValues;
  Vec16 stored[kTiles][kChunks];
  typename F::Scales scales[kTiles];

  // The group of 128 values from `first` on, of rows of `size` values; zeros past the end.
  __device__ __forceinline__ void load(const typename F::Row (&rows)[kTiles], int first, int size,
                                       int lane, uint64_t policy) {
#pragma unroll
    for (int r = 0; r < kTiles; ++r) {
      scales[r] = F::load_scales(rows[r], first, size, lane);
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int k = first + c * kChunkValues + ProductTile::quarter(lane) * 8 * F::kPieces;
#pragma unroll
      for (int r = 0; r < kTiles; ++r) {
        stored[r][c] =
            k < size ? load_stream16(rows[r].values + k * F::kBitsPerValue / 8, policy) : Vec16{};
      }
    }
  }

  // x: rows of this lane's tokens.
  __device__ __forceinline__ void multiply(const uint16_t* const (&x)[ProductTile::kTokenLoads],
                                           bool both, int first, int size, int lane,
                                           float (&sums)[kTiles][4]) const {
    if constexpr (F::kScalesSums) {
      float part[kTiles][4] = {};
      add_products(x, both, first, size, lane, part);
#pragma unroll
      for (int r = 0; r < kTiles; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[r][i] += F::scale_of(scales[r], i) * part[r][i];
        }
      }
    } else {
      add_products(x, both, first, size, lane, sums);
    }
  }

 private:
  __device__ __forceinline__ void add_products(const uint16_t* const (&x)[ProductTile::kTokenLoads],
                                               bool both, int first, int size, int lane,
                                               float (&sums)[kTiles][4]) const {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int begin = first + c * kChunkValues + ProductTile::quarter(lane) * 8 * F::kPieces;
      const int k = begin < size ? begin : 0;  // weights are zeros there
#pragma unroll
      for (int p = 0; p < F::kPieces; ++p) {
        Vec16 values[ProductTile::kTokenLoads];
#pragma unroll
        for (int l = 0; l < ProductTile::kTokenLoads; ++l) {
          values[l] = l == 0 || both ? load16(x[l] + k + p * 8) : Vec16{};
        }
#pragma unroll
        for (int r = 0; r < kTiles; ++r) {
          ProductTile::multiply_add(sums[r], values, F::piece(stored[r][c], p, scales[r]));
        }
      }
    }
  }
};

// Where row `first` + this lane's of an expert lies; rows from `limit` on read the last one.
template <class F>
__device__ __forceinline__ typename F::Row expert_row(const ExpertMatrix& weight, int expert,
                                                      int first, int limit, int lane) {
  const int64_t base = static_cast<int64_t>(expert) * weight.rows + min(first, limit - 1);
  const int rows = max(limit - first, 1);
  typename F::Row row;
  row.values = static_cast<const uint8_t*>(weight.values) +
               (base + min(ProductTile::row(lane), rows - 1)) * weight.cols * F::kBitsPerValue / 8;
  F::find_scales(weight, base, rows, lane, row);
  return row;
}

}  // namespace atom::gpu
