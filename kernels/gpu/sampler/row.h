// What the passes of the device sampler share: the layout of its workspace, weights as integers,
// and block-wide passes over one row. Weights are 64-bit integers in units of 2^-42 of the heaviest
// token, so that sums do not depend on their order: any number of threads gets the same bits.
// Device code.
#pragma once

#include "kernels/gpu/attention/lanes.h"
#include "kernels/gpu/sampler.h"

namespace atom::gpu::sampler {

inline constexpr int kThreads = 512;
inline constexpr int kWarps = kThreads / kLanes;
inline constexpr int kRowBlock = 128;  // values whose maximum is kept: a warp's 16-byte load
inline constexpr int kLoads = 4;
inline constexpr int kChunk = kThreads * 4 * kLoads;  // values of one thread block
inline constexpr int kMaxVocab = 1 << 18;
inline constexpr int kMaxRowBlocks = kMaxVocab / kRowBlock;
inline constexpr int kMaxCandidates = kThreads;
inline constexpr float kWeightUnit = 4398046511104.0F;  // 2^42
inline constexpr float kGreedyTemperature = 1e-5F;

using Weight = unsigned long long;

constexpr int round_up(int value, int step) { return (value + step - 1) / step * step; }

// One chunk's part of a row's result.
struct ChunkResult {
  float max;  // of the edited values
  int32_t token_id;
  int32_t broken;  // a NaN
  float raw_max;
  float raw_sum;  // of exp(raw - raw_max)
  int32_t padding[3];
};

struct Workspace {
  int32_t* tickets;      // [max_rows], zero between launches
  ChunkResult* chunks;   // [max_rows, num_chunks]
  float* block_max;      // [max_rows, num_blocks] of the edited values
  float* block_sum;      // [max_rows, num_blocks] of exp((x - block_max) / temperature)
  float* raw_block_max;  // [max_rows, num_blocks]
  float* edited;         // [max_rows, edited_stride], rows that are edited only
  int32_t num_chunks;
  int32_t num_blocks;
  int32_t edited_stride;
  int64_t bytes;
};

inline Workspace layout(void* base, int32_t max_rows, int32_t vocab_size) {
  Workspace w{};
  int64_t offset = 0;
  const auto take = [&](int64_t bytes) {
    uint8_t* at = static_cast<uint8_t*>(base) + offset;
    offset += (bytes + 255) / 256 * 256;
    return at;
  };
  w.num_chunks = (vocab_size + kChunk - 1) / kChunk;
  w.num_blocks = w.num_chunks * (kChunk / kRowBlock);
  w.edited_stride = round_up(vocab_size, 4);
  const int64_t blocks = int64_t{4} * max_rows * w.num_blocks;
  w.tickets = reinterpret_cast<int32_t*>(take(int64_t{4} * max_rows));
  w.chunks = reinterpret_cast<ChunkResult*>(
      take(static_cast<int64_t>(sizeof(ChunkResult)) * max_rows * w.num_chunks));
  w.block_max = reinterpret_cast<float*>(take(blocks));
  w.block_sum = reinterpret_cast<float*>(take(blocks));
  w.raw_block_max = reinterpret_cast<float*>(take(blocks));
  w.edited = reinterpret_cast<float*>(take(int64_t{4} * max_rows * w.edited_stride));
  w.bytes = offset;
  return w;
}

struct Candidate {
  float value;
  int32_t token_id;
};

// Tokens are ordered by value, highest first, equal values by id.
__device__ __forceinline__ bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.token_id < b.token_id);
}

// Shared memory of a block that scans.
struct ScanShared {
  float chunk[kChunk];  // while a list is applied to it
  float values[kWarps];
  int32_t ids[kWarps];
};

// Shared memory of a block that draws.
struct Shared {
  float block_max[kMaxRowBlocks];
  Weight block_weight[kMaxRowBlocks];
  Candidate candidates[kMaxCandidates];
  Weight weights[kMaxCandidates];
  Weight sums[2][kWarps];
  int32_t count;
  Candidate found;
  Weight found_before;
};

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kLanes; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kLanes; }

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    value += shuffle_xor(value, step);
  }
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    value = fmaxf(value, shuffle_xor(value, step));
  }
  return value;
}

// Sums over the block, for all threads.
__device__ inline void block_sum(Shared& shared, Weight& a, Weight& b) {
  a = warp_sum(a);
  b = warp_sum(b);
  __syncthreads();
  if (lane_index() == 0) {
    shared.sums[0][warp_index()] = a;
    shared.sums[1][warp_index()] = b;
  }
  __syncthreads();
  a = b = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    a += shared.sums[0][w];
    b += shared.sums[1][w];
  }
}

// Turns a thread's value into the sum of those of the threads before it.
__device__ inline Weight block_exclusive_sum(Shared& shared, Weight own) {
  Weight before = own;
  const int lane = lane_index();
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) {
    const Weight other = shuffle(before, lane >= step ? lane - step : lane);
    before += lane >= step ? other : 0;
  }
  __syncthreads();
  if (lane == kLanes - 1) {
    shared.sums[0][warp_index()] = before;
  }
  __syncthreads();
  before -= own;
  for (int w = 0; w < warp_index(); ++w) {
    before += shared.sums[0][w];
  }
  return before;
}

// A row as passes see it; block_max is in shared memory.
struct RowView {
  const float* values;  // [vocab_size], 16-byte aligned
  int32_t vocab_size;
  int32_t num_blocks;
  float max;
  float inv_temperature;

  // exp((x - max) / temperature): 1 where x == max (also when both are +inf), 0 far below.
  __device__ float weight(float x) const {
    const float distance = (x - max) * inv_temperature;
    return x == max ? 1.0F : distance < -86.0F || x == negative_infinity() ? 0.0F : expf(distance);
  }
  __device__ Weight integer_weight(float x) const {
    return static_cast<Weight>(weight(x) * kWeightUnit);
  }
};

// Calls see(x, token_id) for the values of all blocks whose maximum is at least `lowest`, some
// others in these blocks included.
template <class See>
__device__ __forceinline__ void for_each_value(const Shared& shared, const RowView& row,
                                               float lowest, const See& see) {
  constexpr int kBatch = 4;
  for (int first = warp_index(); first < row.num_blocks; first += kWarps * kBatch) {
    float4 loaded[kBatch];
    bool wanted[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int block = first + i * kWarps;
      const int id = block * kRowBlock + lane_index() * 4;
      wanted[i] =
          block < row.num_blocks && shared.block_max[block] >= lowest && id < row.vocab_size;
      if (wanted[i]) {
        loaded[i] = *reinterpret_cast<const float4*>(row.values + id);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (wanted[i]) {
        const int id = (first + i * kWarps) * kRowBlock + lane_index() * 4;
        const float x[4] = {loaded[i].x, loaded[i].y, loaded[i].z, loaded[i].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (id + j < row.vocab_size) {
            see(x[j], id + j);
          }
        }
      }
    }
  }
}

}  // namespace atom::gpu::sampler
