// The first pass of the device sampler: one block reads one chunk of a row, applies the row's edits
// (biases, bans, mask, penalties, in this order), and leaves maxima and sums of it. Only rows with
// edits are written anywhere. Device code.
#pragma once

#include "kernels/gpu/sampler/row.h"

namespace atom::gpu::sampler {

struct RowContext {
  SamplerRow params;
  const uint8_t* blob;
  const uint16_t* counts;  // [vocab_size] or none
  bool greedy;
  bool penalised;
  bool edited;

  __device__ RowContext(const SampleTokensArgs& args, int row) {
    params = reinterpret_cast<const SamplerRow*>(args.blob)[row];
    blob = args.blob;
    const bool draws = args.targets == nullptr;
    greedy = !(params.temperature >= kGreedyTemperature);
    penalised = draws && args.token_counts.counts != nullptr && params.count_slot >= 0 &&
                (params.repetition_penalty != 1.0F || params.frequency_penalty != 0.0F ||
                 params.presence_penalty != 0.0F);
    counts = penalised ? args.token_counts.counts +
                             static_cast<int64_t>(params.count_slot) * args.vocab_size
                       : nullptr;
    edited =
        draws && (penalised || params.num_biases > 0 || params.num_banned > 0 || params.mask != 0);
  }
};

// Applies lists to the chunk in shared memory. A bias list may name an id several times: the thread
// of its first entry adds them all, in order.
__device__ inline void apply_lists(const RowContext& row, int begin, int end, float* chunk) {
  const auto* biases = reinterpret_cast<const SamplerBias*>(row.blob + row.params.biases);
  for (int i = static_cast<int>(threadIdx.x); i < row.params.num_biases; i += kThreads) {
    const int id = biases[i].token_id;
    if (id < begin || id >= end) {
      continue;
    }
    bool first = true;
    for (int j = 0; j < i && first; ++j) {
      first = biases[j].token_id != id;
    }
    if (!first) {
      continue;
    }
    float value = chunk[id - begin];
    for (int j = i; j < row.params.num_biases; ++j) {
      value = biases[j].token_id == id ? __fadd_rn(value, biases[j].bias) : value;
    }
    chunk[id - begin] = value;
  }
  __syncthreads();
  const auto* banned = reinterpret_cast<const int32_t*>(row.blob + row.params.banned);
  for (int i = static_cast<int>(threadIdx.x); i < row.params.num_banned; i += kThreads) {
    if (banned[i] >= begin && banned[i] < end) {
      chunk[banned[i] - begin] = negative_infinity();
    }
  }
  __syncthreads();
}

__device__ __forceinline__ float edit(const RowContext& row, float x, int id) {
  if (row.params.mask != 0) {
    const auto* mask = reinterpret_cast<const uint32_t*>(row.blob + row.params.mask);
    if ((mask[id / 32] >> (id % 32) & 1U) == 0) {
      x = negative_infinity();
    }
  }
  if (row.counts != nullptr) {
    const uint32_t entry = row.counts[id];
    const uint32_t count = entry & 0x7fffU;
    if (count > 0 || (entry != 0 && row.params.repetition_penalty != 1.0F)) {
      x = x > 0.0F ? __fdiv_rn(x, row.params.repetition_penalty)
                   : __fmul_rn(x, row.params.repetition_penalty);
      x = __fsub_rn(x, __fmul_rn(row.params.frequency_penalty, static_cast<float>(count)));
      x = count > 0 ? __fsub_rn(x, row.params.presence_penalty) : x;
    }
  }
  return x;
}

class ChunkScan {
 public:
  __device__ ChunkScan(const SampleTokensArgs& args, const Workspace& workspace,
                       const RowContext& row, ScanShared& shared)
      : args_(args), workspace_(workspace), row_(row), shared_(shared) {}

  __device__ void run(int row_index, int chunk) {
    begin_ = chunk * kChunk;
    end_ = begin_ + kChunk < args_.vocab_size ? begin_ + kChunk : args_.vocab_size;
    blocks_ = static_cast<int64_t>(row_index) * workspace_.num_blocks +
              static_cast<int64_t>(chunk) * (kChunk / kRowBlock);
    load(args_.logits + row_index * args_.logit_stride);
    ChunkResult result{};
    if (row_.params.num_logprobs >= 0) {
      raw_sums(result);
    }
    bool broken = has_nan();
    if (row_.edited) {
      apply_edits(workspace_.edited + static_cast<int64_t>(row_index) * workspace_.edited_stride);
      broken = broken || has_nan();
    }
    if (!row_.greedy && args_.targets == nullptr) {
      block_sums();
    }
    best(result);
    result.broken = __syncthreads_or(broken ? 1 : 0);
    if (threadIdx.x == 0) {
      workspace_.chunks[static_cast<int64_t>(row_index) * workspace_.num_chunks + chunk] = result;
    }
  }

 private:
  __device__ int id_of(int load) const {
    return begin_ + load * kThreads * 4 + static_cast<int>(threadIdx.x) * 4;
  }

  __device__ void load(const float* logits) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int id = id_of(i);
      const float lowest = negative_infinity();
      float4 v = {lowest, lowest, lowest, lowest};
      if (id < end_) {
        v = *reinterpret_cast<const float4*>(logits + id);
      }
      x_[i][0] = v.x;
      x_[i][1] = id + 1 < end_ ? v.y : lowest;
      x_[i][2] = id + 2 < end_ ? v.z : lowest;
      x_[i][3] = id + 3 < end_ ? v.w : lowest;
    }
  }

  __device__ bool has_nan() const {
    bool found = false;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        found = found || x_[i][j] != x_[i][j];
      }
    }
    return found;
  }

  __device__ static float max4(const float (&x)[4]) {
    return fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
  }

  // Maximum of each block of 128 and the sum of exponentials of the whole chunk, as the logits
  // came.
  __device__ void raw_sums(ChunkResult& result) {
    float top = negative_infinity();
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const float block_top = warp_max(max4(x_[i]));
      if (lane_index() == 0) {
        workspace_.raw_block_max[blocks_ + i * kWarps + warp_index()] = block_top;
      }
      top = fmaxf(top, block_top);
    }
    if (lane_index() == 0) {
      shared_.values[warp_index()] = top;
    }
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      top = fmaxf(top, shared_.values[w]);
    }
    __syncthreads();
    float sum = 0.0F;
    if (top > negative_infinity()) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum += x_[i][j] == top ? 1.0F : expf(x_[i][j] - top);
        }
      }
    }
    sum = warp_sum(sum);
    if (lane_index() == 0) {
      shared_.values[warp_index()] = sum;
    }
    __syncthreads();
    sum = 0.0F;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      sum += shared_.values[w];
    }
    __syncthreads();
    result.raw_max = top;
    result.raw_sum = sum;
  }

  __device__ void apply_edits(float* edited) {
    const bool lists = row_.params.num_biases > 0 || row_.params.num_banned > 0;
    if (lists) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        *reinterpret_cast<float4*>(shared_.chunk + (id_of(i) - begin_)) =
            make_float4(x_[i][0], x_[i][1], x_[i][2], x_[i][3]);
      }
      __syncthreads();
      apply_lists(row_, begin_, end_, shared_.chunk);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int id = id_of(i);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (id + j < end_) {
          const float x = lists ? shared_.chunk[id + j - begin_] : x_[i][j];
          x_[i][j] = edit(row_, x, id + j);
        }
      }
      if (id < end_) {  // the row's stride has room for a whole load
        *reinterpret_cast<float4*>(edited + id) =
            make_float4(x_[i][0], x_[i][1], x_[i][2], x_[i][3]);
      }
    }
  }

  __device__ void block_sums() {
    const float inv_temperature = 1.0F / row_.params.temperature;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const float top = warp_max(max4(x_[i]));
      float sum = 0.0F;
      if (top > negative_infinity()) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum += x_[i][j] == top ? 1.0F : expf((x_[i][j] - top) * inv_temperature);
        }
      }
      sum = warp_sum(sum);
      if (lane_index() == 0) {
        workspace_.block_max[blocks_ + i * kWarps + warp_index()] = top;
        workspace_.block_sum[blocks_ + i * kWarps + warp_index()] = sum;
      }
    }
  }

  // The chunk's highest value and its lowest id.
  __device__ void best(ChunkResult& result) {
    Candidate top = {negative_infinity(), 0x7fffffff};
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (x_[i][j] > top.value) {
          top = {x_[i][j], id_of(i) + j};
        }
      }
    }
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
      const Candidate other = {shuffle_xor(top.value, step), shuffle_xor(top.token_id, step)};
      top = ranks_before(other, top) ? other : top;
    }
    if (lane_index() == 0) {
      shared_.values[warp_index()] = top.value;
      shared_.ids[warp_index()] = top.token_id;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kWarps; ++w) {
        const Candidate other = {shared_.values[w], shared_.ids[w]};
        top = ranks_before(other, top) ? other : top;
      }
      result.max = top.value;
      result.token_id = top.token_id;
    }
  }

  const SampleTokensArgs& args_;
  const Workspace& workspace_;
  const RowContext& row_;
  ScanShared& shared_;
  int begin_ = 0;
  int end_ = 0;
  int64_t blocks_ = 0;
  float x_[kLoads][4];
};

}  // namespace atom::gpu::sampler
